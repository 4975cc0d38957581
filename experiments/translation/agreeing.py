"""Where the encoder resolves agreement: which position tells the gender or number, layer by layer.

The subject's noun has another gender, or the other number, in the corrupt sentence, and no other
English word shows it. Patching the stream after a layer at one position says what the decoder reads
there of the noun: once that of the determiner or adjective has it, the encoder has resolved it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

import interp
from experiments.translation.setting import Property, Twin, Written, cross_heads, pairs_of
from experiments.translation.using import looks, shares
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.models.model import Model

READS: Mapping[str, tuple[str, tuple[Property, ...]]] = {
    "determiner": ("subject determiner", ("gender", "number")),
    "adjective": ("subject adjective 0", ("gender", "number")),
    "verb": ("verb", ("number",)),
}
"""What is asked for: the role of the target word, and the properties that it shows."""
PLACES = {
    "determiner": "subject determiner",
    "adjective": "subject adjective 0",
    "noun": "subject noun",
    "verb": "verb",
}
SOURCES: Mapping[str, tuple[tuple[Written, Written], tuple[Written, Written]]] = {
    "source": (("clean", "corrupt"), ("clean", "clean")),
    "written": (("clean", "clean"), ("clean", "corrupt")),
    "both": (("clean", "corrupt"), ("clean", "corrupt")),
}
"""What differs between clean and corrupt: what is read, what has been written, or both."""


def asked(twins: Sequence[Twin], read: str, of: str = "source") -> Pairs:
    """Pairs in which the word of a role is asked for."""
    role, _ = READS[read]
    source, written = SOURCES[of]

    def places(roles: Sequence[str]) -> Mapping[str, int]:
        return {name: roles.index(role) for name, role in PLACES.items()}

    named = [replace(twin, role=role) for twin in twins]
    return pairs_of(named, places, source=source, written=written)


def cases(twins: Mapping[Property, Sequence[Twin]]) -> dict[str, tuple[str, Sequence[Twin]]]:
    """By name, "gender of the determiner": what is read, and the pairs."""
    return {
        f"{wanted} of the {read}": (read, twins[wanted])
        for read, (_, properties) in READS.items()
        for wanted in properties
    }


def resolved(model: Model, read: str, twins: Sequence[Twin], kept: Path) -> Results:
    """What the corrupt noun does where it is patched.

    `method` is "patch": the stream after each encoder layer at each place, and each encoder head at
    the place that is read; "path_patch": the noun, through all positions' values of one head of
    cross-attention (`receiver`); "attention": of that head to the noun.
    """
    pairs, layers = asked(twins, read), model.facts.n_encoder_layers
    sites = ["enc.0.resid_pre", *(f"enc.{i}.resid_post" for i in range(layers))]
    tables = [
        interp.patch(model, pairs, sites, positions=[*PLACES, "all"], checkpoint=kept / "streams")
    ]
    heads = [f"enc.{i}.{j}" for i in range(layers) for j in range(model.facts.n_heads)]
    tables.append(interp.patch(model, pairs, heads, positions=read, checkpoint=kept / "heads"))
    for head in cross_heads(model):
        found = interp.path_patch(
            model,
            pairs,
            senders=sites[0],
            sender_positions="noun",
            receivers=f"{head}.v",
            through="all",
        )
        tables.append(found)
    tables.append(looks(model, pairs, cross_heads(model), "noun"))
    return Results.concat(tables)


def sources(model: Model, read: str, twins: Sequence[Twin]) -> Results:
    """The logit difference if what is read differs, what has been written, or both.

    `method` says which; `position` "clean" and "corrupt" as in `interp.evaluate`.
    """
    tables = []
    for of in SOURCES:
        found = interp.evaluate(model, asked(twins, read, of), metric="logit_diff")
        tables.append(Results(found.frame.assign(method=of), found.provenance))
    return Results.concat(tables)


def changes(from_where: Results) -> dict[str, pd.Series]:
    """Of each example the change by what is read, what has been written, and both."""
    found = {}
    for of, part in from_where.frame.groupby("method", sort=False):
        side = part.pivot_table(index="example", columns="position", values="value")
        found[str(of)] = side["corrupt"] - side["clean"]
    return found


def told(moved: Results, from_where: Results) -> pd.DataFrame:
    """Everything as a share of the change where both what is read and what was written differ.

    Before the rows of `moved` those of "source" and "written" (`method`): what either alone does.
    """
    change = changes(from_where)
    whole = change["both"].to_numpy()
    alone = from_where.frame.query("position == 'corrupt' and method != 'both'")
    effect = [change[of][at] for of, at in zip(alone["method"], alone["example"], strict=True)]
    rows = Results(alone.assign(effect=effect).reset_index(drop=True), from_where.provenance)
    effects = moved.query("method != 'attention'")
    return pd.concat([shares(rows, whole), shares(effects, whole)], ignore_index=True)


def strongest(moved: Results, method: str, kind: str) -> tuple[str, Results, Results]:
    """The head that does most on half of the nouns, and both halves."""
    column = "receiver" if method == "path_patch" else "site"
    asked = f"method == '{method}' and kind == '{kind}'"
    first, second = moved.split()
    effect = first.query(asked).frame.groupby(column, sort=False)["effect"].mean()
    return str(effect.abs().idxmax()), first, second
