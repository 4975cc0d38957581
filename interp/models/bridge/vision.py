"""Vision transformers of Hugging Face's that speak as its text models do.

They are given ids of patches where those are given ids of tokens, look the pixels up, and give the
classes' logits at every position: at the class token, which is the first, those are the logits of
Hugging Face's own forward.
"""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    DeiTForImageClassification,
    PreTrainedModel,
    ViTForImageClassification,
    ViTMSNForImageClassification,
)
from transformers.modeling_outputs import CausalLMOutput

from interp.core.errors import ModelError, Unsupported
from interp.core.prompts.grid import Images, Processor
from interp.core.prompts.patches import image_of, pixels_of

PROCESSOR = "preprocessor_config.json"


class _OfPatches:
    """The forward of a model of images, over ids."""

    def forward(
        self: Any,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        pixel_values: Float[Tensor, "batch channel height width"] | None = None,
        **rest: Any,
    ) -> Any:
        if input_ids is None:
            return super().forward(pixel_values=pixel_values, **rest)
        of = images_of(self)
        assert of is not None  # it speaks
        pixels = pixels_of(input_ids[:, of.special :], of.features)
        images = image_of(pixels, of).to(self.device, self.dtype)
        body = self.base_model(pixel_values=images, **rest)
        return CausalLMOutput(logits=self.classifier(body.last_hidden_state))


def _speaking(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(kind.__name__, (_OfPatches, kind), {"__module__": __name__})


SPEAKING = {
    kind: _speaking(kind)
    for kind in (
        ViTForImageClassification,
        DeiTForImageClassification,
        ViTMSNForImageClassification,
    )
}
"""Classes of Hugging Face's, and those that read ids of patches."""
ALIKE = {"ViTMSNForImageClassification": "ViTForImageClassification"}
"""Those that TransformerLens does not know, and one that it does, which has the same parts."""


def speak(hf: PreTrainedModel) -> None:
    """Let a model of images read ids of patches; one of text is left as it is.

    Raises:
        Unsupported: images that its kind of head or of embedding is not served for.
    """
    if getattr(hf, "main_input_name", "") != "pixel_values":
        return
    kind = type(hf)
    if kind in SPEAKING.values():
        return
    if kind not in SPEAKING:
        known = ", ".join(one.__name__ for one in SPEAKING)
        raise Unsupported(
            f"of models that read images there are {known}, and this is a {kind.__name__}. Likely "
            "it has no head of its own over the class token, from which classes are read."
        )
    if not isinstance(hf.classifier, nn.Linear):
        raise Unsupported(
            f"the {kind.__name__} has {hf.config.num_labels} classes, so there are no logits. "
            "Load one with a head (config.num_labels)."
        )
    hf.__class__ = SPEAKING[kind]


def images_of(hf: PreTrainedModel) -> Images | None:
    """The images that a model reads; None where it reads text."""
    if type(hf) not in SPEAKING.values():
        return None
    body: Any = hf.base_model
    embeddings = getattr(body.embeddings, "original_component", body.embeddings)
    cut = embeddings.patch_embeddings
    (height, width), (high, wide) = cut.image_size, cut.patch_size
    distilled = hasattr(embeddings, "distillation_token")
    return Images(height, width, cut.num_channels, (high, wide), distilled)


def processor_in(home: Path, of: Images | None) -> Processor | None:
    """What the processor's file beside a model says of pixels.

    Raises:
        ModelError: it cannot be read, or is of other channels.
    """
    path = home / PROCESSOR
    if of is None or not path.is_file():
        return None
    try:
        said = json.loads(path.read_text())
        scale = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
        mean, std = ((0.0,) * of.channels, (1.0,) * of.channels)
        if said.get("do_normalize", True):
            mean, std = (tuple(map(float, said[f"image_{name}"])) for name in ("mean", "std"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read as a processor of images: {type(error).__name__}: {error}. "
            "Save the model's processor there again, or take the file away and give pixels as the "
            "model reads them (pixels='normalised')."
        ) from error
    if len(mean) != of.channels or len(std) != of.channels or not all(std):
        raise ModelError(
            f"{path} has mean {mean} and deviation {std}, and the model reads {of.channels} "
            "channels; a deviation is no 0. Likely it belongs to another model: save the model's "
            "own processor there."
        )
    return Processor(mean, std, scale)
