"""What does it then say? Texts under interventions, many sets of them at once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, Count, Finite, Index, Seed, Within
from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.core.tables import said as numbers
from interp.core.tables.texts import Texts
from interp.engine.decode.choosing import How
from interp.engine.decode.run import Asked, Said, say
from interp.engine.decode.stopping import stop_of, text_of
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Add, Averaged, Intervention
from interp.engine.plain.prompts import Tokens
from interp.engine.plain.prompts import prompts as rows_of
from interp.engine.plan.memory import Memory
from interp.engine.provenance import provenance
from interp.models.bridge.tokens import leading_bos
from interp.models.model import Model

PLAIN = "plain"


@door
def generate(
    model: Model,
    prompts: Pairs | str | Sequence[str] | Sequence[Sequence[Mapping[str, str]]] | Tokens,
    interventions: Mapping[str, Sequence[Intervention]],
    *,
    n: Count = 40,
    temperature: AtLeast0 = 0.0,
    top_k: Count | None = None,
    top_p: Annotated[float, Within(above=0, high=1)] | None = None,
    beams: Count = 1,
    length_penalty: Finite = 1.0,
    seed: Seed = 0,
    stop: Sequence[str | Index] | None = None,
    random: Index = 0,
    by_step: Literal["log_probs", "kl"] = "log_probs",
    engine: EngineName = "auto",
    memory: Memory = None,
) -> Texts:
    """Let the model go on with each prompt, under each set of interventions and without any.

        At, Add = interp.interventions.Intervention, interp.interventions.Add
        sets = {"past": [At("12.resid_post", Add(vector), "from end")]}
        texts = interp.generate(model, ["Yesterday she"], sets, n=20)

    The numbers are those of computing everything anew at each step, and without interventions the
    tokens those of Hugging Face's `generate`. Rows of one length run together, none is padded.

    When an intervention is made its `positions` say: a place of the prompt is once (`"end"`,
    `"prompt"`), `"generated"` is each token that was said, `"from end"` (or another place) that
    place and everything after, `"all"` the prompt and all that is said
    (`interp.engine.decode.when`). Values may be functions of the current activation; each position
    is looked at by itself. A mean has no position for what is said: there it is that of the
    prompt's last position, or, of a `MeanReference` by position, of this position where two prompts
    have it.

    Args:
        prompts: texts, token ids, chats (lists of messages with a role and a content, written by
            the tokenizer's template), or pairs, whose clean side is read (`Resample("corrupt")`
            takes from the other).
        interventions: by the names that the table gives them; made together in one run. An empty
            list is the plain model, which runs in any case.
        n: tokens to say at most.
        temperature: 0 takes the likeliest token. Else tokens are drawn: each prompt has a stream of
            its own, which the sets share, so that texts are paired
            (`interp.engine.decode.choosing.seeds`).
        top_k, top_p: draw only from the likeliest.
        beams: above 1, beam search, with `length_penalty` and early_stopping=False of transformers.
        seed: of the draws, and of random directions.
        stop: tokens, or strings in what is said; by default what ends the model's own texts.
        random: draws of random directions beside each set that adds vectors, in place of them and
            of their lengths.
        by_step: `"kl"` compares whole distributions at each step, too, for one more run.
        engine, memory: as `interp.Running` says; through hooks every step is computed anew.

    Returns:
        One row for each set and prompt.

    Raises:
        PairsError, PositionError, SiteError, Unsupported, InterpError: as their names say, before
            anything runs.
    """
    pairs = read(model, prompts)
    how = How(temperature, top_k, top_p, beams, length_penalty, seed)
    sets, controls = with_plain(interventions), dict[str, str]()
    for name, made in [*sets.items()]:
        for draw in range(random):
            if any(isinstance(i.value, Add) for i in made):
                other = f"{name} random {draw + 1}"
                sets[other], controls[other] = randomised(made, seed, name, draw), name
    found = say(
        Asked(
            model=model,
            pairs=pairs,
            sets=sets,
            n=n,
            how=how,
            stop=stop_of(model, stop),
            engine=engine,
            memory=memory,
            kl=by_step == "kl",
        )
    )
    return _texts(model, pairs, sets, controls, found, how, n)


def read(model: Model, prompts: Any) -> Pairs:
    """Prompts as pairs.

    Raises:
        PairsError: none, or what no model reads.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if isinstance(prompts, Sequence) and prompts and all(isinstance(p, str) for p in prompts):
        given = list(prompts)
        return Pairs.from_text(model, clean=given, corrupt=given)
    if not isinstance(prompts, Pairs | Tensor | np.ndarray) and not len(prompts):
        raise PairsError("no prompts were given; give one text at least.")
    first = prompts[0] if isinstance(prompts, list | tuple) else ()
    if isinstance(first, list | tuple) and any(isinstance(one, Mapping) for one in first):
        return Pairs.from_chat(model, clean=prompts)
    return rows_of(prompts)


def with_plain(
    interventions: Mapping[str, Sequence[Intervention]],
) -> dict[str, Sequence[Intervention]]:
    """The sets, and before them that of no intervention where none is empty.

    Raises:
        PairsError: a set with interventions is called plain, and none is.
    """
    if any(not made for made in interventions.values()):
        return dict(interventions)
    if PLAIN in interventions:
        raise PairsError(
            f"the set {PLAIN!r} holds interventions, and the model without any, which every text "
            "is compared with, is called so. Give the set another name."
        )
    return {PLAIN: [], **interventions}


def randomised(made: Sequence[Intervention], seed: int, name: str, draw: int) -> list[Intervention]:
    """The same with random directions, of the same lengths, in place of vectors that are added."""
    found = []
    for at, i in enumerate(made):
        if isinstance(i.value, Add):
            # the same for the same name, whatever else is asked
            code = [seed, draw, at, *name.encode()]
            vector = i.value.source
            drawn = np.random.default_rng(code).standard_normal(tuple(vector.shape))
            other = torch.from_numpy(np.asarray(drawn)).to(vector)
            other = other * vector.norm(dim=-1, keepdim=True) / other.norm(dim=-1, keepdim=True)
            i = replace_value(i, Add(other))
        found.append(i)
    return found


def replace_value(i: Intervention, value: Add) -> Intervention:
    """The same intervention with another value."""
    return Intervention(i.site, value, i.positions, i.readers, i.normalise)


def _texts(
    model: Model,
    pairs: Pairs,
    sets: Mapping[str, Sequence[Intervention]],
    controls: Mapping[str, str],
    found: Said,
    how: How,
    n: int,
) -> Texts:
    plain = next(name for name, made in sets.items() if not made)
    lines: list[dict[str, Any]] = []
    base = [*sets].index(plain)
    ids = [
        row[: int(length)].tolist() for row, length in zip(pairs.clean, pairs.lengths, strict=True)
    ]
    shown = [text_of(model, row) for row in ids]
    for cell, name in enumerate(sets):
        for row in range(len(pairs)):
            length = int(found.length[cell, row])
            tokens = found.tokens[cell, row, :length].tolist()
            other = found.tokens[base, row, : int(found.length[base, row])].tolist()
            mine, theirs = (x[cell, row, :length] for x in (found.log_probs, found.plain))
            lines.append(
                {
                    "model": model.name,
                    "intervention": name,
                    "control": controls.get(name, ""),
                    "example": row,
                    **{kind: of[row] for kind, of in pairs.units.items()},
                    "prompt": shown[row],
                    "text": text_of(model, tokens),
                    "tokens": tokens,
                    "length": length,
                    "ended": "stop" if found.ended[cell, row] else "n",
                    "log_prob": float(mine.sum()),
                    "plain_log_prob": float(theirs.sum()),
                    "log_probs": mine.tolist(),
                    "plain_log_probs": theirs.tolist(),
                    **({} if found.kl is None else {"kl": found.kl[cell, row, :length].tolist()}),
                    "differs": numbers.differs(tokens, other),
                    "distance": numbers.distance(tokens, other),
                }
            )
    note = provenance(
        model,
        pairs,
        engine=found.engine,
        plain=plain,
        n=n,
        decoding=dict(vars(how)),
        bos_tokens=leading_bos(model.tokenizer, ids[0]),
        first_tokens=[model.show(row[:2]) if model.tokenizer else row[:2] for row in ids[:3]],
        **({"means": _used(sets)} if _used(sets) else {}),
    )
    return Texts(pd.DataFrame(lines), note)


def _used(sets: Mapping[str, Sequence[Intervention]]) -> str:
    """What stands in for a mean at what is said."""
    averaged = [i for made in sets.values() for i in made if isinstance(i.value.source, Averaged)]
    if not averaged:
        return ""
    return (
        "of the reference's last position, or of the same position where a reference by position "
        "has it in two prompts"
    )
