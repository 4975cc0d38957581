"""The model as the methods see it: a bridge, its facts, its tokenizer and its checks."""

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NoReturn

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from interp.core.door.door import door
from interp.core.door.taken import Count, Within
from interp.core.errors import ModelError, Unsupported
from interp.core.files.identity import Unreadable, identity
from interp.core.parts.facts import Facts
from interp.core.parts.sites import absent
from interp.core.prompts.grid import Processor
from interp.models.bridge import quantised, tokens
from interp.models.bridge.borders import devices_of
from interp.models.bridge.copies import rebind
from interp.models.now.checks import (
    EXPLAINING,
    Checks,
    Identity,
    output_of,
    recurrent_checks,
    run_checks,
    sample_tokens,
)
from interp.models.now.digest import digest
from interp.models.now.likeliest import Asked, likeliest
from interp.models.now.live import Live, Now
from interp.models.now.origin import Origin
from interp.models.now.truth import Itself, Truth, guarded
from interp.models.now.versions import versions

TokenId = Annotated[int, Within(low=0, high=(1 << 31) - 1)]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A model ready to be asked questions. Made by `interp.load`.

    Whatever is asked of it is asked of the model as it is then: weights that were trained or
    replaced, hooks and adapters that were put on it, another precision or device.

    Attributes:
        bridge: the TransformerLens bridge, for whatever this library does not offer; of a recurrent
            model its own module.
        name: what was given to `load`.
        facts: shape and order of parts.
        tokenizer: the model's own, straight from its files, or None when it has none.
        truth: what Hugging Face's own model computes with the same weights; every engine is held
            against it.
        live: what is there now.
        origin: what it was made of, where its name does not say that: a module in memory, adapters.
        processor: of one that reads images: what becomes of their pixels first; None where nothing
            beside the model says it.
    """

    bridge: TransformerBridge | HookedRootModule
    name: str
    facts: Facts
    tokenizer: PreTrainedTokenizerBase | None
    truth: Truth | Itself
    live: Live
    origin: Origin = field(default=Origin(), kw_only=True)
    processor: Processor | None = field(default=None, kw_only=True)

    @property
    def __alone__(self) -> Any:
        """The lock of the one thread that asks it something."""
        return self.live.lock

    def now(self) -> Now:
        """The model as it is at this moment; the same object until something changes.

        Raises:
            ModelError: two copies of one matrix were changed in two ways, or a part was taken away.
        """
        return self.live.now()

    @property
    def device(self) -> torch.device:
        """Of its first parameter."""
        return self.live.first().device

    @property
    def dtype(self) -> torch.dtype:
        """Of its first parameter."""
        return self.live.first().dtype

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that a model of images chooses from, in their order."""
        if self.facts.image is None:
            return ()
        names = getattr(self.bridge.original_model.config, "id2label", None) or {}
        return tuple(str(names.get(i, i)) for i in range(self.facts.d_vocab))

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of its parameters as they are, by device; tied ones count once."""
        found: dict[str, int] = {}
        for p in {id(p): p for p in self.truth.parameters().values()}.values():
            place = str(p.device)
            found[place] = found.get(place, 0) + p.numel() * p.element_size()
        return found

    @property
    @door
    def checks(self) -> Checks:
        """The numerical identities that methods rely on, measured on the model as it is.

        Raises:
            ModelError: it cannot run.
        """
        return self.now().once("checks", self._check)

    def _check(self) -> Checks:
        now = self.now()
        tokens = sample_tokens(self.facts.d_vocab, device=now.device, image=self.facts.image)
        with guarded(self.live.watch, now.foreign):
            if self.facts.recurrent:
                return recurrent_checks(output_of(self.bridge, tokens, language_model=True))
            # hooks on hook points are no part of the bare model
            with self.live.bare():
                known = self.truth.run(tokens, foreign=now.foreign).output
                return run_checks(self.bridge, self.facts, tokens=tokens, reference=known)

    @property
    @door
    def weight_hash(self) -> str:
        """A hash of everything that the model computes with, as it is now: 64 hex digits.

        Every parameter's and buffer's name, dtype, shape and numbers, under Hugging Face's names
        (so it does not depend on TransformerLens, and a tied parameter counts once), and, where
        there are any, changed settings, hooks and adapters. The same on every device. Numbers are
        read again when a counter or a sample of them shows a change (`interp.models.now.watch`); to
        read them whatever it shows, ask `identity(anew=True)`. Where a hook or an adapter cannot be
        read it is another one each time, so that nothing kept is taken for this model's.
        """
        return self._hash(anew=False)

    def _hash(self, *, anew: bool) -> str:
        now, watch = self.now(), self.live.watch
        key = ("numbers", watch.sample())
        if anew:
            now.found.pop(key, None)
        numbers = now.once(key, lambda: digest(self._numbers(now)))
        packed = [quantised.settings(module) for module in watch.packed]
        if not now.foreign and not now.changed and not packed:
            return numbers
        stand = [
            (one.what, one.name, [self._read(held, str(one), anew=anew) for held in one.held])
            for one in now.foreign
        ]
        stand += [
            ("function", name, [self._read(held, f"the function at {name}", anew=anew)])
            for name, held in watch.functions().items()
        ]
        return hashlib.sha256(repr((numbers, stand, now.changed, *packed)).encode()).hexdigest()

    def _read(self, held: object, what: str, *, anew: bool) -> str:
        """What a hook, an adapter or a function is; of one that cannot be read nothing that any
        other is, or a refusal.
        """
        try:
            # it may hold the model that it stands on
            return identity(held, known=(self, self.bridge, self.live.watch.wrapped))
        except Unreadable as error:
            if anew:
                raise Unreadable(
                    f"{what} cannot be read, so nothing that is kept can be told to be of "
                    f"{self.name} as it is now: {error}. Take it off, make it of plain values "
                    "(numbers, tensors, functions), or keep nothing."
                ) from error
            return os.urandom(16).hex()

    def _numbers(self, now: Now) -> dict[str, Tensor]:
        """What is hashed: the model's own tensors once each, and those of adapters."""
        own: dict[int, str] = {}
        tensors = self.truth.tensors()
        for name, tensor in sorted(tensors.items()):
            own.setdefault(id(tensor), name)
        found = {n: t for name in own.values() for n, t in quantised.inside(name, tensors[name])}
        found |= self.live.watch.beside()
        for one in now.foreign:
            if one.what == "module":
                inside = one.module.named_parameters()
                found |= {f"{one.name}+{n}": p for n, p in inside if id(p) not in own}
        return found

    @door
    def identity(self, *, anew: bool = False) -> dict[str, Any]:
        """Which model this is, as it is now: what numbers depend on beside the question.

        Name, architecture, `weight_hash`, dtype, kind of device, what it was made of (`given`, a
        module in memory; `adapters`, by name, with the sha256 of their files), what stands on it
        that it did not come with (`on_it`), and versions. It begins every provenance and the key
        of everything that is kept.

        Args:
            anew: read all weights, whatever the counters show. That takes as long as one forward
                of one token.

        Raises:
            Unreadable: with `anew`, a hook or an adapter that cannot be told from another.
        """
        now = self.now()
        on_it = [*map(str, now.foreign), *now.changed]
        return {
            "model": self.name,
            "architecture": self.facts.architecture,
            "weights": self._hash(anew=anew),
            "dtype": str(now.dtype).removeprefix("torch."),
            "device": now.device.type,
            **self.origin.told,
            **({"quantised": ", ".join(now.quantised)} if now.quantised else {}),
            **({"on_it": on_it} if on_it else {}),
            "versions": versions(now.quantised),
        }

    def __identity__(self) -> str:
        return repr(self.identity(anew=True))

    @door
    def encode(self, text: str, *, bos: tokens.Bos = "model", target: bool = False) -> list[int]:
        """Token ids of a text; see `interp.models.bridge.tokens.encode`."""
        return tokens.encode(self._text(), text, bos=bos, target=target)

    @door
    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat by the tokenizer's template; see `tokens.encode_chat`."""
        return tokens.encode_chat(self._text(), messages)

    @door
    def encode_with_offsets(
        self, text: str, *, bos: tokens.Bos = "model"
    ) -> tuple[list[int], tokens.Offsets]:
        """Token ids and the characters each covers; see `tokens.encode_with_offsets`."""
        return tokens.encode_with_offsets(self._text(), text, bos=bos)

    @door
    def token_id(self, text: str) -> int:
        """The id of a text that is exactly one token; PairsError otherwise."""
        return tokens.token_id(self._text(), text, target=self.facts.n_encoder_layers > 0)

    @door
    def show(self, ids: Sequence[TokenId]) -> list[str]:
        """One readable string per id, with spaces and newlines made visible."""
        return tokens.show(self._text(), ids)

    @door
    def top(
        self, text: str | Sequence[TokenId], k: Count = 10, *, bos: tokens.Bos = "model"
    ) -> pd.DataFrame:
        """The likeliest next tokens, as Hugging Face's own model says them.

            model.top("The keys to the", k=10)

        Of a masked model those of its mask in the text; of an encoder-decoder the first that it
        writes.

        Args:
            text: or token ids.
            k: how many, at most the vocabulary.
            bos: as `encode` takes it.

        Returns:
            `rank`, `token`, `id`, `probability`, `log_prob`, `logit`.

        Raises:
            Unsupported: no language-model head, or a text that a masked model has no mask in.
            PairsError: no tokens, or ids that the vocabulary has not.
            ModelError: it cannot run.
        """
        ids = self.encode(text, bos=bos) if isinstance(text, str) else [*text]
        config = getattr(self.bridge.original_model, "config", None)
        asked = Asked(self.name, self.facts, self.truth, self.now(), self.tokenizer, config)
        return likeliest(asked.logits(ids), k, self.show if self.tokenizer else None)

    @door
    def parity(self) -> float:
        """Largest absolute difference of the bridge's logits from Hugging Face's own, as they are.

        On two rows of random tokens; of the last hidden state where there is no language-model
        head. A recurrent model is wrapped by nothing, so there it is 0.

        Raises:
            ModelError: it cannot run.
        """
        now = self.now()
        tokens = sample_tokens(self.facts.d_vocab, device=now.device, image=self.facts.image)
        with guarded(self.live.watch, now.foreign), self.live.bare():
            known = self.truth.run(tokens, foreign=now.foreign).output
            found = output_of(
                self.bridge.original_model, tokens, language_model=self.facts.language_model
            )
            return (found.double() - known.double()).abs().max().item()

    @door
    def require(self, identity: Identity) -> None:
        """Refuse when a method needs an identity that does not hold on this model.

        Of a call that only explains itself nothing is measured: what is not known passes.

        Raises:
            Unsupported: with the identity, the numbers and the reason.
        """
        part = absent("z" if identity == "heads" else "resid_post", self.facts)
        if part is not None and identity != "parity":
            raise Unsupported(f"{self.name}: {part}.")
        if EXPLAINING.get() and "checks" not in self.now().found:
            return
        problem = self.checks.problems().get(identity)
        if problem is not None:
            raise Unsupported(
                f"{self.name} ({self.facts.architecture}): {problem}. The result would not mean "
                "what it says. Use a method that does not need this "
                "(`model.checks.problems()` lists what is broken), or another model."
            )

    def require_eval(self) -> None:
        """Refuse a model with any part in training mode, where dropout makes effects of noise.

        Raises:
            ModelError: naming the parts.
        """
        training = self.now().once("training", self._training)
        if training:
            more = f" and {len(training) - 3} more" if len(training) > 3 else ""
            raise ModelError(
                f"{len(training)} submodules of {self.name} are in training mode: "
                f"{', '.join(training[:3])}{more}. Dropout would show effects where there are "
                "none. Call model.bridge.eval()."
            )

    def _training(self) -> list[str]:
        return [
            name.replace("_original_component.", "") or "the model"
            for name, module in self.bridge.named_modules()
            if module.training
        ]

    def require_text(self) -> None:
        """Refuse a model that reads images, where text or a vocabulary is asked of.

        Raises:
            ModelError: saying what it reads.
        """
        if self.facts.image is not None:
            raise ModelError(
                f"{self.name} reads images ({self.facts.image}), and this is of text, or of the "
                "tokens of a vocabulary. Build pairs with Pairs.from_images; classes are given by "
                "number or name (model.classes)."
            )

    def _text(self) -> PreTrainedTokenizerBase:
        self.require_text()
        if self.tokenizer is None and self.origin.given:
            raise ModelError(
                f"{self.name} has no tokenizer: none was given with the model, so text cannot "
                "become tokens. Give it, interp.load(model, tokenizer=...), or give token ids "
                "instead of text."
            )
        if self.tokenizer is None:
            raise ModelError(
                f"{self.name} has no tokenizer: its folder holds no tokenizer files, so text "
                "cannot become tokens. Save one there with tokenizer.save_pretrained(folder), or "
                "give token ids instead of text."
            )
        return self.tokenizer

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        places = ", ".join(map(str, devices_of(self.bridge)))
        lines = [f"{self.name} on {places}, {dtype}", f"  {self.facts}"]
        if self.tokenizer is None and self.facts.image is None:
            lines.append("  no tokenizer: give token ids instead of text")
        lines += [f"  note ({name}): {text}" for name, text in self.checks.problems().items()]
        return "\n".join(lines)

    def __copy__(self) -> "Model":
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        """Another model; Python would make it as it pickles one."""
        copied = memo[id(self)] = object.__new__(type(self))
        for name, held in vars(self).items():
            object.__setattr__(copied, name, copy.deepcopy(held, memo))
        rebind(copied.bridge)
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        again = f"interp.load({self.name!r})"
        raise ModelError(
            f"a model is not pickled ({self.name}): hooks and wrapped parts do not travel to "
            f"another process. Load it anew there: {self.origin.call or again}."
        )
