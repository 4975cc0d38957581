"""Small tables of interventions, by hand."""

import pandas as pd

from interp.core.parts.sites import Site
from interp.core.tables.results import Results

COUPLES = ("king/queen", "man/woman", "boy/girl", "duke/duchess")


def results(
    method: str, site: str, values, *, base=3.0, position="all", couples=COUPLES, draw=None
):
    """A row for each couple; `values` under the intervention, perhaps one of several draws."""
    parsed, n = Site.parse(site), len(couples)
    frame = pd.DataFrame(
        {
            "method": method if draw is None else f"{method} {draw}",
            "site": site,
            "position": position,
            "receiver": None,
            "direction": "noise",
            "metric": "logit_diff",
            "kind": parsed.kind,
            "layer": parsed.layer,
            "head": parsed.head,
            "through": None,
            "engine": "replay",
            "example": range(n),
            "cluster": list(couples),
            "base": base,
            "value": values,
            "draw": draw,
        }
    )
    frame["effect"] = frame["value"] - frame["base"]
    return Results(frame.astype(dict.fromkeys(("layer", "head", "draw"), "Int16")), {})
