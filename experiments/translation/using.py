"""Are aligned heads used: which keys and values bring a source word to the word it becomes.

One word of the source is exchanged, and its change travels through the encoder into the keys, or
the values, of one head of cross-attention, and on through the decoder: a path patch. Beside it
stands how much that head attends to the word.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

import interp
from experiments.translation.setting import Twin, cross_heads, pairs_of
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.wide import ByExample

WORD = "word"


def exchanges(twins: Sequence[Twin]) -> Pairs:
    """Pairs with the exchanged word's position."""
    roles = iter(twins)
    return pairs_of(twins, lambda found: {WORD: found.index(next(roles).role)})


def used(model: interp.Model, twins: Sequence[Twin]) -> Results:
    """Attention to the exchanged word; and what its change does by each key and value.

    `method` is "attention" (`value`), "path_patch" (one head's keys or values, `receiver`), or
    "patch" of all values, all keys and both, which is the whole change.
    """
    pairs = exchanges(twins)
    heads = cross_heads(model)
    tables = [looks(model, pairs, heads, WORD)]
    for head in heads:
        for part in "kv":
            found = interp.path_patch(
                model,
                pairs,
                senders="enc.0.resid_pre",
                sender_positions=WORD,
                receivers=f"{head}.{part}",
                through="all",
            )
            tables.append(found)
    every = {
        name: [f"{head}.{part}" for head in heads for part in parts]
        for name, parts in (("all values", "v"), ("all keys", "k"), ("keys and values", "kv"))
    }
    tables.append(interp.patch(model, pairs, every))
    return Results.concat(tables)


def looks(model: interp.Model, pairs: Pairs, heads: Sequence[str], key: str) -> Results:
    """Attention to a named word of the source, where the word that is asked for is written."""
    names = [f"{head}.pattern" for head in heads]
    kept = interp.capture(model, pairs, names, positions="end")
    at = pairs.at(key).tolist()
    values = [
        [float(row[0, i]) for row, i in zip(kept.rows(name), at, strict=True)] for name in names
    ]
    sites = [Site.parse(head) for head in heads]
    return Results.of(
        {
            **{"method": "attention", "kind": "pattern", "metric": "attention"},
            **{"site": list(heads), "position": key, "engine": "replay"},
            **{"layer": [site.layer for site in sites], "head": [site.head for site in sites]},
        },
        np.array(values),
        units=pairs.units,
        provenance=kept.provenance,
    )


def shares(found: Results, whole: np.ndarray) -> pd.DataFrame:
    """Each effect as a share of a whole change: a ratio of means, over clusters.

    Args:
        whole: the change of each example.
    """
    wide = ByExample.of(found.frame)
    effect, cluster = wide.measured["effect"], wide.units[0]
    sums, _ = stats.cluster_sums(effect, cluster)
    wholes, _ = stats.cluster_sums(np.broadcast_to(whole, effect.shape), cluster)
    low, high = stats.ratio_interval(sums, wholes)
    value = sums.sum(1) / wholes.sum(1)
    return wide.first.reset_index(drop=True).assign(
        value=value, low=low, high=high, n=effect.shape[1], clusters=wide.clusters
    )


def by_head(found: Results) -> pd.DataFrame:
    """Of each cross head: mean attention to the word, and what its keys and values carry.

    `value`, `low`, `high`: the share of the whole change; `attention`; `part` "k" or "v".
    """
    frame = found.frame
    whole = found.query("site == 'keys and values'").frame.sort_values("example")
    paths = shares(found.query("method == 'path_patch'"), whole["effect"].to_numpy())
    seen = frame[frame["method"] == "attention"].groupby("site", sort=False)["value"].mean()
    reader = paths["receiver"].astype(str)
    head = reader.str.removesuffix(".k").str.removesuffix(".v")
    return paths.assign(reader=head, part=reader.str[-1], attention=seen.loc[head].to_numpy()).drop(
        columns="site"
    )


LOOKS, CARRIES = 0.5, 0.01


def idle(found: Results) -> pd.Series:
    """Of the looks by more than a half, the share whose values carry less than a hundredth.

    A look is a head's in a sentence; the share is over sentences: `value`, `low`, `high`, `n`.
    """
    frame = found.frame
    whole = found.query("site == 'keys and values'").frame.set_index("example")["effect"]
    values = frame[(frame["method"] == "path_patch") & frame["receiver"].str.endswith(".v")]
    values = values.assign(site=values["receiver"].str.removesuffix(".v"))
    seen = frame[frame["method"] == "attention"].set_index(["site", "example"])["value"]
    moved = values.set_index(["site", "example"])["effect"].loc[seen.index]
    example = seen.index.get_level_values("example")
    looks = (seen > LOOKS).groupby(example).sum()
    little = moved.abs() < CARRIES * whole.abs().loc[example].to_numpy()
    idle = ((seen > LOOKS) & little).groupby(example).sum()
    low, high = stats.ratio_interval(
        idle.to_numpy(dtype=float)[None], looks.to_numpy(dtype=float)[None]
    )
    value = idle.sum() / looks.sum() if looks.sum() else float("nan")
    return pd.Series({"value": value, "low": low[0], "high": high[0], "n": int(looks.sum())})
