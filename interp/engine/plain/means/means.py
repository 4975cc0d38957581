"""Means of activations over reference prompts: what mean ablation sets."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import PairsError, Unsupported
from interp.core.files.sealed import open_content, told, write_tensors
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.interventions import Averaged, Reference
from interp.engine.limits import Limits
from interp.engine.plain.means.fitter import By, Group, Key, average, require_room
from interp.engine.plain.prompts import Tokens, prompts
from interp.engine.plain.taps import Layout, Slab, refuse_logits
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import HOST, KEEP, Memory, budget
from interp.engine.plan.positions import lengths_in
from interp.models.model import Model

CONTENT, VERSION = "mean reference", 2
REMEDY = "Fit the reference with it: interp.MeanReference.fit(model, pairs, sites)."


@dataclass(frozen=True, eq=False, repr=False)
class MeanReference(Averaged):
    """Mean activations at some sites, position by position; `ablate(..., reference=)` sets them.

    Attributes:
        by: `"template"`: of the prompts that share template and length, as in Wang et
            al. 2022, sec. 2.1; `"position"`: of all prompts that have the position.
        means: of each group (None where there is one), by slab: `index pos *axes`, in float64
            (float32 of half-precision models).
        sizes: prompts in each group, or at each position.
        model, weights: which model it was fitted on, and the hash of its weights.
        written: of means by position: prompts at each position of an encoder-decoder's decoder,
            where they had targets.
    """

    by: By
    layout: Layout
    means: Mapping[Key, Mapping[Slab, Float[Tensor, "index pos *axes"]]]
    sizes: Mapping[Group, int] | Mapping[int, int]
    model: str
    weights: str
    written: tuple[int, ...] = ()

    @classmethod
    @door
    def fit(
        cls,
        model: Model,
        pairs: Tokens,
        sites: str | Site | Iterable[str | Site],
        *,
        side: Side = "corrupt",
        by: By = "template",
        memory: Memory = None,
        engine: EngineName = "auto",
    ) -> "MeanReference":
        """Average over prompts; only the sums are held.

        Args:
            pairs: pairs, of which `side` runs, or ids, which have no templates: `by="position"`.
            sites: as `capture` takes them.
            memory: bytes that the means may take; 2 GiB by default, or a quarter of what there is.

        Warns:
            the smallest group has under 30 prompts.

        Raises:
            SiteError, PairsError, Unsupported: what the model or the prompts do not have.
            InterpError: more bytes than `memory`.
        """
        if by == "template" and not isinstance(pairs, Pairs):
            raise PairsError(
                "ids alone have no templates to average within. Say by='position', or give Pairs "
                "built with template=."
            )
        found = resolve(sites, model.facts)
        refuse_logits(found, "a mean could be set at")
        layout = Layout.of(found, model.facts.group_size)
        given = prompts(pairs)
        accept(model, given, None)
        require_room(model, given, layout, by, budget(memory, HOST, KEEP))
        served = choose(model, engine, longest=given.longest)
        proceed(
            forward_plan(
                *(model.facts, lengths_in(model.facts, given)),
                rows=len(given),
                runs=1,
                itemsize=model.dtype.itemsize,
                limits=Limits.of(model.device),
                engine=served.name,
                layers=layout.layers,
            )
        )
        found = average(model, served, given, side, layout, by)
        return cls(
            *(by, layout, found.means, found.sizes),
            *(model.name, model.weight_hash, found.written),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the means and of everything that says what they are of."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self._note()).encode())
        for tensor in self._tensors().values():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def at(self, site: Site, groups: Sequence[Group]) -> Float[Tensor, "batch pos *axes"]:
        """The mean at a site for rows of these templates and lengths, all of one length.

        Raises:
            SiteError: the site was not averaged.
            PairsError: as `require_several`.
        """
        slab, index = self.layout.find(site, "the mean reference", REMEDY)
        require_several(self.by, self.sizes, groups, self.written)
        if self.by == "template":
            return torch.stack([self.means[group][slab][index] for group in groups])
        mean, (_, length, *written) = self.means[None][slab][index], groups[0]
        positions, keys = slab.extent(length, written[0] if written else 1)
        mean = mean[:positions, :keys] if slab.kind == "pattern" else mean[:positions]
        return mean.expand(len(groups), *mean.shape)

    def require(self, model: Model, sites: Iterable[Site]) -> None:
        """Refuse what these means are not of.

        Raises:
            Unsupported: another model.
            SiteError: a site that was not averaged.
        """
        if self.weights != model.weight_hash:
            raise Unsupported(
                f"the mean reference is of {self.model} (weights {self.weights[:12]}), and the "
                f"model is {model.name} ({model.weight_hash[:12]}): these means are of no run of "
                "it. Fit it on this model, loaded with the same dtype: "
                "interp.MeanReference.fit(model, pairs, sites)."
            )
        for site in sites:
            self.layout.find(site, "the mean reference", REMEDY)

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises:
            ResultsError: it cannot be written.
        """
        path = Path(path)
        write_tensors(path, self._tensors(), self._note())
        return path

    @classmethod
    @door
    def load(cls, path: str | os.PathLike[str]) -> "MeanReference":
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, no mean reference, or one of another version.
        """
        path = Path(path)
        remedy = "Fit and save the reference again (interp.MeanReference.fit)."
        with open_content(path, CONTENT, VERSION, remedy=remedy) as held:
            note = held.note
            # what is read is a window on the file
            tensors = {name: held.read(name).clone() for name in held.names}
        kinds = {"by": str, "model": str, "weights": str, "written": list, "sites": list}
        told(note, path, remedy, kinds | {"sizes": list})
        layout = Layout.of(map(Site.parse, note["sites"]), note["group size"])
        sizes = {tuple(g) if isinstance(g, list) else g: count for g, count in note["sizes"]}
        keys = [None] if note["by"] == "position" else list(sizes)
        means = {
            key: {slab: tensors[f"{i}/{n}"] for n, slab in enumerate(layout.slabs)}
            for i, key in enumerate(keys)
        }
        model, weights, written = note["model"], note["weights"], tuple(note["written"])
        return cls(note["by"], layout, means, sizes, model, weights, written)

    def _note(self) -> dict[str, object]:
        return {
            "content": CONTENT,
            "version": VERSION,
            "by": self.by,
            "model": self.model,
            "weights": self.weights,
            "written": list(self.written),
            "sites": [str(site) for site in self.layout.sites],
            "group size": self.layout.group_size,
            "sizes": [[group, count] for group, count in self.sizes.items()],
        }

    def _tensors(self) -> dict[str, Tensor]:
        """By the numbers of group and slab."""
        return {
            f"{i}/{n}": self.means[key][slab].contiguous()
            for i, key in enumerate(self.means)
            for n, slab in enumerate(self.layout.slabs)
        }

    def __repr__(self) -> str:
        kind = "templates (and lengths)" if self.by == "template" else "positions"
        return (
            f"MeanReference of {self.model}: {len(self.layout.sites)} sites, {len(self.sizes)} "
            f"{kind} with {min(self.sizes.values())} to {max(self.sizes.values())} prompts"
        )


def taken(
    source: Averaged, model: Model, engine: Engine, sites: Iterable[Site], pairs: Pairs
) -> MeanReference:
    """The means of a source for these pairs: averaged now, or found to be of this model and sites.

    Raises:
        PairsError: a row of the pairs has no mean of several prompts.
        Unsupported, SiteError: as `MeanReference.require`.
    """
    sites = sorted(set(sites))
    require_mean(source, pairs)
    if isinstance(source, MeanReference):
        source.require(model, sites)
        return source
    assert isinstance(source, Reference)
    layout = Layout.of(sites, model.facts.group_size)
    found = average(model, engine, source.pairs, source.side, layout, "template")
    return MeanReference(
        "template", layout, found.means, found.sizes, model.name, model.weight_hash
    )


def _require_long(sizes: Sequence[int], longest: int, what: str) -> None:
    known = sum(size > 1 for size in sizes)
    if longest > known:
        has = f"positions 0 to {known - 1}" if known else "no position"
        raise PairsError(
            f"the mean reference has {has} in at least two prompts, and {what} has "
            f"{longest} tokens. Fit it on more prompts that are as long."
        )


def require_mean(source: Averaged, pairs: Pairs) -> None:
    """Refuse a source that has no mean for some row, before anything runs.

    Raises:
        PairsError: as `require_several`.
    """
    if isinstance(source, MeanReference):
        require_several(source.by, source.sizes, pairs.groups, source.written)
    elif isinstance(source, Reference):
        require_several("template", Counter(source.pairs.groups), pairs.groups)


def require_several(
    by: By,
    sizes: Mapping[Group, int] | Mapping[int, int],
    groups: Sequence[Group],
    written: Sequence[int] = (),
) -> None:
    """Refuse rows that have no mean, or the mean of one prompt, which is that prompt.

    Args:
        by, sizes, written: of the reference.
        groups: of the rows whose activations are to be replaced.

    Raises:
        PairsError: naming the template and length, or the position.
    """
    if by == "position":
        _require_long([*sizes.values()], max(group[1] for group in groups), "a row")
        read = max((group[2] for group in groups if len(group) > 2), default=0)
        _require_long(written, read, "the decoder of a row (its start token counted)")
        return
    held = cast(Mapping[Group, int], sizes)
    for group in dict.fromkeys(groups):
        size = held.get(group, 0)
        template, length, *written = group
        tokens = f"{length} tokens"
        if written:
            tokens += f" and {written[0] - 1} in its target"
        if size == 0:
            raise PairsError(
                f"the mean reference has no prompt of template {template!r} with {tokens}; "
                "make the reference from the same templates, use the pairs' own corrupt side, or "
                "average by position: MeanReference.fit(..., by='position')."
            )
        if size == 1:
            raise PairsError(
                f"the mean reference has one prompt of template {template!r} with {tokens}, "
                "and the mean over one prompt is that prompt itself. Give prompts that fill one "
                "text the same template=, or a larger reference=; where positions of different "
                "texts mean the same, MeanReference.fit(..., by='position'); or say "
                "method='resample', which takes the row's own corrupt prompt."
            )
