"""Path patching: along which edges does a part act? (Wang et al. 2022, App. B, Algorithm 1)"""

from collections.abc import Sequence
from pathlib import Path

from interp.causal.patching import Direction, sides
from interp.causal.targets import Positions, Sites, each_position, targets
from interp.core.errors import SiteError
from interp.core.metrics import Metric, resolve_metric
from interp.core.pairs import Pairs
from interp.core.results import Results
from interp.core.sites import Site, resolve
from interp.engine.engines import EngineName
from interp.engine.interventions import Cell, Hop, Intervention, Resample, Through
from interp.engine.run import Sweep, run
from interp.models.model import Model


def path_patch(
    model: Model,
    pairs: Pairs,
    *,
    senders: Sites,
    receivers: str | Site | Sequence[str | Site] = "logits",
    through: Through = "mlps",
    sender_positions: Positions = "all",
    receiver_positions: str = "all",
    direction: Direction = "noise",
    metric: str | Metric = "logit_diff",
    engine: EngineName = "auto",
    memory: int | None = None,
    checkpoint: Path | None = None,
) -> Results:
    """Let each sender's value from the other run reach the receivers alone.

    Attention heads between sender and receiver keep the base run's output; the receivers take the
    input that results, jointly; everything after them is recomputed.

    Args:
        senders: heads, MLPs, attention layers, `"embed"`; one path each. Those of a selector
            (`"heads"`) that come after the receivers have no path and no row.
        receivers: `"logits"`, or queries, keys, values of heads (`"23.3.q"`; the key as that query
            head reads it `"23.3.k"`, of its whole group `"23.kv1.k"`) and MLPs (`"12.mlp"`).
        through: `"mlps"` recomputes MLPs on the way (the paper's definition), `"direct"` freezes
            them too: the residual edge alone. Norms are recomputed in both.
        sender_positions: where the sender is changed.
        receiver_positions: where the receivers take their new input; the logits are read at the
            metric's position only.
        direction: `"noise"`: corrupt value into the clean run; `"denoise"`: the reverse.

    Returns:
        One row for each sender and example; `receiver` and `through` say which path.

    Raises:
        SiteError: a site that the model has not, that cannot send or receive, or no path at all.
        PositionError, MetricError, Unsupported: as their names say, before any run.
    """
    base, other = sides(direction)
    ends = resolve(receivers, model.facts)
    each_position(pairs, receiver_positions)
    hop = Hop(ends, through, receiver_positions)
    selected = isinstance(senders, str) and senders in ("heads", "mlps", "attn", "resid_pre")
    found = list(targets(model, pairs, senders, sender_positions))
    if selected:
        found = [(site, place) for site, place in found if site < max(ends)]
        if not found:
            raise SiteError(
                f"none of {senders!r} is computed before {hop}, so there is no path to patch; "
                "choose a later receiver."
            )
    cells = [
        Cell(site, str(place), (Intervention(site, Resample(other), place),), hop)
        for site, place in found
    ]
    return run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method="path_patch",
            base=base,
            metric=resolve_metric(metric),
            engine=engine,
            memory=memory,
            checkpoint=checkpoint,
        )
    )
