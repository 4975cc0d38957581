"""A bridge to others' code: interventions that stay while something else runs the model."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import SiteError, Unsupported
from interp.core.parts.sites import HEAD_KINDS
from interp.engine.engines.hooked.applied import Clock, live, standing
from interp.engine.interventions import Intervention
from interp.models.model import Model


@door
def applied(model: Model, interventions: Sequence[Intervention]) -> AbstractContextManager[None]:
    """Inside of the block the model runs under these interventions, whatever is called.

        with interp.applied(model, [At("12.resid_post", Add(vector), "from end")]):
            model.bridge.original_model.generate(ids, max_new_tokens=20)
            model.bridge.generate("Yesterday she")

    On `model.bridge` and on Hugging Face's module under it (`model.bridge.original_model`; a module
    that was given to `interp.load` stays as it is). Afterwards, also on errors, no hook is left.

    Args:
        interventions: for all readers, with values that need no other prompts. Positions are those
            of the rows that run: `"all"`, `"after first"`, `"prompt"`, `"generated"`, `"end"` (the
            last of the prompt), an index, `"from end"`, `"from 3"`; with a key-value cache they are
            counted on.

    Raises:
        SiteError: what the model has not, or a value of another shape than its site.
        Unsupported: patterns, single readers, values from other prompts, positions by name, a
            recurrent model or an encoder-decoder.
        InterpError: inside of the block, rows that are padded.
    """
    facts = model.facts
    if facts.recurrent or facts.n_encoder_layers:
        raise Unsupported(
            f"interventions are put on transformers of one stack, and {model.name} is none "
            f"({facts}). Intervene with interp.intervene."
        )
    if not interventions:
        raise SiteError("no interventions were given; give one at least.")
    for i in interventions:
        i.site.check(facts)
        live(i, Clock())  # refuses what cannot stand
        source, wide = i.value.source, _width(model, i)
        if isinstance(source, Tensor) and tuple(source.shape) != wide:
            raise SiteError(
                f"the value given for '{i.site}' has shape {tuple(source.shape)}, and it takes "
                f"{wide}: the same in every row and position, since which will run is not known."
            )
    return standing(model, interventions)


def _width(model: Model, i: Intervention) -> tuple[int, ...]:
    """The shape of one row and position of a site."""
    if i.site.neuron is not None:
        return ()
    return (model.facts.d_head if i.site.kind in HEAD_KINDS else model.facts.d_model,)
