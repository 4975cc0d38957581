"""What is refused before anything is said."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor

from interp.core.errors import InterpError, PairsError, SiteError, Unsupported
from interp.core.parts.edges import Edge
from interp.core.prompts.pairs import Pairs
from interp.engine.decode.when import lasting, span
from interp.engine.engines.choose import accept
from interp.engine.interventions import Averaged, Cell, Intervention
from interp.engine.plain.means.means import require_mean
from interp.engine.plan.positions import blocks
from interp.engine.plan.values import laid, require_fit
from interp.models.model import Model

Sets = Mapping[str, Sequence[Intervention]]


def require_speech(model: Model, pairs: Pairs, n: int) -> None:
    """Refuse a model that says nothing, and more tokens than it has positions for.

    Raises:
        Unsupported: no language-model head, or no causal model.
        PairsError: prompts that the model cannot read, or that are too long together with n.
    """
    facts = model.facts
    if not facts.language_model:
        raise Unsupported(
            f"{model.name} has no trained language-model head, so it says nothing. Load a model "
            f"with a head. ({facts})"
        )
    if facts.recurrent or not (facts.causal or facts.n_encoder_layers):
        sort = "is recurrent"
        if not facts.recurrent:
            sort = "reads a whole row at once, what follows a token with it"
        raise Unsupported(
            f"{model.name} {sort}; generation is of causal transformers, which say one token after "
            f"the other. ({facts})"
        )
    accept(model, pairs, None)
    longest = int(pairs.lengths.max())
    longest = int(pairs.written.max()) if facts.n_encoder_layers else longest
    # the last token is said, and not read
    where = "the decoder" if facts.n_encoder_layers else f"row {int(pairs.lengths.argmax())}"
    if facts.positions in ("learned", "sinusoidal") and longest + n - 1 > facts.n_ctx:
        raise PairsError(
            f"{where} has {longest} tokens, and to say n={n} more the "
            f"model reads {longest + n - 1}; it has {facts.positions} positions for "
            f"{facts.n_ctx}. Say at most {max(0, facts.n_ctx - longest + 1)}, or shorten the "
            "prompts."
        )


def require_sets(model: Model, pairs: Pairs, sets: Sets, n: int) -> None:
    """Refuse interventions that fit nothing, or say two things at one place.

    Raises:
        SiteError, PositionError, PairsError, InterpError: as their names say.
    """
    alike = list(blocks(pairs.extents, len(pairs)))
    for name, made in sets.items():
        for i in made:
            i.site.check(model.facts)
            for reader in i.readers or ():
                Edge(i.site, reader).check(model.facts)
            if isinstance(i.value.source, Averaged):
                require_mean(i.value.source, pairs)
            require_fit(i, model.facts, pairs)
            lasts = [
                bool(lasting(pairs, i.positions, rows, n, i.site)[:, prompt:].any())
                for rows in alike
                for prompt in [span(pairs, rows, n, i.site).prompt]
            ]
            if any(lasts):
                _require_lasting(model, pairs, i, name)
        if made:
            Cell(name, "", tuple(made))  # refuses what a run of fixed prompts refuses
        for one, other in combinations(made, 2):
            if one.site == other.site:
                _refuse_overlap(pairs, one, other, alike, n, name)


def _require_lasting(model: Model, pairs: Pairs, i: Intervention, name: str) -> None:
    """Refuse a value that there is not at what is said."""
    source, what = i.value.source, f"{type(i.value).__name__} at '{i.site}' ({name!r})"
    remedy = (
        "Say positions='prompt', or a place of the prompt. (Positions 'all', 'generated' and "
        "'from ...' mean what is said, too.)"
    )
    if isinstance(source, str):
        raise SiteError(
            f"{what} takes its value from another run of the prompts ({source}), which has none at "
            f"what is said: there stands another text, or nothing. {remedy}"
        )
    lost = isinstance(source, Tensor) and laid(source, i.site, model.facts, pairs).shape[1] > 1
    if lost:
        raise SiteError(
            f"{what} has one value for each position of the prompt, and none for what is said. "
            f"{remedy} Or give one that is the same at every position."
        )
    if i.site.kind == "pattern" and source is not None:
        raise SiteError(
            f"{what} is a pattern over the keys of the prompt, and of what is said there are more "
            f"keys at each step. {remedy} Or give a function of the current pattern."
        )


def _refuse_overlap(
    pairs: Pairs,
    one: Intervention,
    other: Intervention,
    alike: Sequence[Sequence[int]],
    n: int,
    name: str,
) -> None:
    apart = one.readers is not None and other.readers is not None
    if apart and set(one.readers or ()).isdisjoint(other.readers or ()):
        return
    for rows in alike:
        both = lasting(pairs, one.positions, rows, n, one.site)
        both = both & lasting(pairs, other.positions, rows, n, one.site)
        if bool(both.any()):
            row = rows[int(both.any(1).int().argmax())]
            raise SiteError(
                f"two interventions set '{one.site}' in {name!r}, at {one.positions!s} and at "
                f"{other.positions!s}, which meet in row {row}: which one holds is not said. Leave "
                "one out, or let one end where the other begins ('prompt' and 'generated')."
            )


def require_finite(found: Tensor, names: Sequence[str], rows: Sequence[int], step: int) -> None:
    """Refuse log-probabilities that are NaN or infinite, as those of such logits are.

    Args:
        found: `cells batch`.
    """
    bad = ~found.isfinite()
    if bool(bad.any()):
        cell, row = bad.nonzero()[0].tolist()
        raise InterpError(
            f"under {names[cell]!r} the logits of prompt {rows[row]} hold NaN or infinity at step "
            f"{step}. Likely a value is far out of range for the model's precision."
        )
