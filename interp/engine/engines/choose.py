"""The engines behind one call, and which of them serves a model."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.core.errors import PairsError, Unsupported
from interp.core.metrics import Metric
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.patches import FIRST
from interp.engine.engines.hooked.engine import Hooks
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.engines.recurrent.engine import Recurrent
from interp.engine.engines.recurrent.lstm import recurrence_of
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.replay.two import ReplayOfTwo
from interp.engine.engines.verified import (
    SHORT,
    Gap,
    bridge_gap,
    length_for,
    lengths_of,
    recurrent_gap,
    replay_gap,
    stacks_gap,
)
from interp.engine.network.gathered import gathered
from interp.engine.network.stacks import Stacks, read_stacks
from interp.engine.network.weights import Weights, read
from interp.engine.plan.explain import explaining, require_running
from interp.models.bridge import quantised, tokens
from interp.models.model import Model

log = logging.getLogger("interp")

_SAID: WeakKeyDictionary[Model, set[str]] = WeakKeyDictionary()
"""What was said of a model, such as why hooks serve: each once."""


def accept(model: Model, pairs: Pairs, metric: Metric | None) -> None:
    """Refuse pairs that the model cannot run, and a metric that it or they have nothing for.

    Raises:
        Unsupported: logits are read and the model has none, or next tokens of a model that reads
            them.
        PairsError: no answers, no next token, ids outside the vocabulary, or prompts longer than
            the positions learned.
    """
    facts = model.facts
    if metric is not None and metric.reads != "embedding" and not facts.language_model:
        raise Unsupported(
            f"{model.name} has no trained language-model head, so there are no logits for the "
            f"metric {metric.name!r} to read. Take one of its embedding (metric='cosine'), or load "
            f"a model with a head. ({facts})"
        )
    if metric is not None and metric.everywhere:
        _accept_text(model, pairs, metric)
    elif metric is not None and metric.needs_answers and bool((pairs.correct < 0).all()):
        raise PairsError(
            f"the metric {metric.name!r} compares answers and the pairs have none. Give correct= "
            "and wrong= when they are built, or take a metric without ('cosine', 'kl', "
            "'next_token_loss')."
        )
    answers = ("correct", "wrong") if bool((pairs.correct >= 0).any()) else ()
    sides = ("clean", "corrupt")
    if facts.image is not None or pairs.patches is not None:
        _accept_images(model, pairs, metric)
        sides = ()
        answers = () if bool((pairs.wrong < 0).any()) else answers
    for name in (*sides, *answers):
        ids: Tensor = getattr(pairs, name)
        bad = ((ids < 0) | (ids >= facts.d_vocab)).nonzero().tolist()
        if bad:
            raise PairsError(
                f"row {bad[0][0]} of {name} has token {int(ids[tuple(bad[0])])}, and the model's "
                f"vocabulary ends at {facts.d_vocab - 1}. Were the pairs made with another model's "
                "tokenizer?"
            )
    tokens.require_text(pairs, model.tokenizer)
    longest = int(pairs.lengths.max())
    if facts.positions in ("learned", "sinusoidal") and longest > facts.n_ctx:
        raise PairsError(
            f"row {int(pairs.lengths.argmax())} has {longest} tokens, and the model has "
            f"{facts.positions} positions for {facts.n_ctx}. Shorten the prompts."
        )
    if facts.n_encoder_layers:
        _accept_written(model, pairs)
    elif pairs.target is not None:
        raise PairsError(
            f"the pairs have a target (target= or decoder=), which the decoder of an "
            f"encoder-decoder reads, and {model.name} has one stack of layers ({facts}): it would "
            "be read by nobody. Leave it out; what a causal model goes on from is part of its "
            "prompts."
        )


def _accept_images(model: Model, pairs: Pairs, metric: Metric | None) -> None:
    of = model.facts.image
    if of is None:
        raise PairsError(
            f"these pairs are of images, and {model.name} reads text ({model.facts}). Build them "
            "with Pairs.from_text, or load a model of images."
        )
    if not bool((pairs.lengths == of.n_ctx).all()):
        raise PairsError(
            f"row {int((pairs.lengths != of.n_ctx).int().argmax())} has "
            f"{sorted(set(pairs.lengths.tolist()))[0]} positions, and {model.name} reads images of "
            f"{of.n_ctx} ({of}). Build pairs with Pairs.from_images; ids of text are none."
        )
    for side, ids in (("clean", pairs.clean), ("corrupt", pairs.corrupt)):
        first = torch.arange(of.special)
        if bool((ids[:, : of.special] != first).any()) or bool(
            (ids[:, of.special :] < FIRST).any()
        ):
            raise PairsError(
                f"{side} has ids that are no patches of images, which {model.name} reads "
                f"({of}). Build pairs with Pairs.from_images."
            )
    many = model.facts.d_vocab
    if bool((pairs.correct >= many).any()):
        row = int((pairs.correct >= many).int().argmax())
        raise PairsError(
            f"row {row} of correct is class {int(pairs.correct[row])}, and {model.name} has "
            f"classes 0 to {many - 1}. Were the pairs made for another model?"
        )
    if metric is not None and metric.reads == "answers" and bool((pairs.wrong < 0).any()):
        row = int((pairs.wrong < 0).int().argmax())
        raise PairsError(
            f"the metric {metric.name!r} compares two classes and row {row} has no wrong one. Give "
            "wrong= when the pairs are built, or take a metric of the correct class ('prob', "
            "'log_prob', 'logit')."
        )


def _accept_written(model: Model, pairs: Pairs) -> None:
    facts, target = model.facts, pairs.target
    for side in () if target is None else ("clean", "corrupt"):
        ids: Tensor = getattr(target, side)
        if bad := ((ids < 0) | (ids >= facts.d_vocab)).nonzero().tolist():
            raise PairsError(
                f"row {bad[0][0]} of the {side} target has token {int(ids[tuple(bad[0])])}, and "
                f"the model's vocabulary ends at {facts.d_vocab - 1}. Was it made with another "
                "model's tokenizer?"
            )
    count = int(pairs.written.max())
    if facts.positions in ("learned", "sinusoidal") and count > facts.n_ctx:
        raise PairsError(
            f"the decoder reads {count} tokens in row {int(pairs.written.argmax())} (its start "
            f"token and the target), and the model has {facts.positions} positions for "
            f"{facts.n_ctx}. Shorten the target."
        )


def _accept_text(model: Model, pairs: Pairs, metric: Metric) -> None:
    facts = model.facts
    if facts.n_encoder_layers:
        if int(pairs.written.min()) < 2:
            raise PairsError(
                f"row {int(pairs.written.argmin())} has no target, so there is nothing that the "
                f"metric {metric.name!r} could score: it reads the decoder, token by token. Build "
                "the pairs with target=, the translations."
            )
        return
    if not facts.causal:
        raise Unsupported(
            f"the metric {metric.name!r} scores each token of a row by those before it, and "
            f"{model.name} reads the whole row at once, the answer with it. Take a causal model, "
            f"or a metric at one position. ({facts})"
        )
    if int(pairs.lengths.min()) < 2:
        raise PairsError(
            f"row {int(pairs.lengths.argmin())} has a single token, so nothing follows that the "
            f"metric {metric.name!r} could score. Leave such rows out (pairs.select)."
        )


def choose(
    model: Model,
    engine: EngineName = "auto",
    *,
    longest: int = SHORT,
) -> Engine:
    """The engine that serves a model as it is now: its own of a recurrent one; of a transformer
    replay where it computes what Hugging Face does, else hooks, saying so once, if those do.

    Args:
        longest: tokens in the longest row that will be run.

    Raises:
        ModelError: a submodule is in training mode.
        Unsupported: an engine was asked for by name and cannot serve, or none can.
    """
    model.require_eval()
    _require_sort(model, engine)
    if model.facts.recurrent:
        _require_recurrence(model)
        return Recurrent(recurrence_of(model))
    refusals = []
    if engine != "hooks":
        found = _rounding(model) or replay_of(model, longest)
        if isinstance(found, Weights):
            return Replay(found)
        if isinstance(found, Stacks):
            return ReplayOfTwo(found)
        if engine == "replay":
            raise Unsupported(found)
        refusals.append(found)
    if wrong := _no_hooks(model, longest):
        refusals.append(wrong)
        raise Unsupported(
            f"no engine computes what Hugging Face's {model.facts.architecture} does"
            f" ({model.name}): {' '.join(refusals)} Its numbers would not be this model's."
            if engine != "hooks"
            else wrong
        )
    if refusals:
        _say(model, f"{refusals[0]} Running through hooks, one forward for each intervention.")
    return Hooks(model)


def weights_of(model: Model) -> Weights:
    """The model's own weights as they are, from which replay computes what Hugging Face does.

    Of a model on several devices each layer comes to the first when it is asked for.

    Raises:
        Unsupported: an architecture or an option that replay does not have, or a hook or an adapter
            beside the weights.
    """
    require_running()
    found = replay_of(model, SHORT)
    if isinstance(found, Stacks):
        raise Unsupported(
            f"what is asked of weights is asked of one stack of layers, and {model.name} has an "
            f"encoder and a decoder ({model.facts}). Look at what its parts do instead: "
            "interp.ablate, patch, or capture of its sites ('dec.0.cross.3.pattern')."
        )
    if isinstance(found, str):
        raise Unsupported(found)
    if kinds := ", ".join(model.now().quantised):
        _say(
            model,
            f"{model.name}: its weights are quantised ({kinds}), and are read as the numbers that "
            "they stand for, dequantised anew where they are asked for.",
        )
    return gathered(found)


def stacks_of(model: Model) -> Weights | Stacks:
    """As `weights_of`; of an encoder-decoder both of its stacks."""
    require_running()
    found = replay_of(model, SHORT)
    if not isinstance(found, Stacks):
        return weights_of(model)
    return replace(found, encoder=gathered(found.encoder), decoder=gathered(found.decoder))


def last_stack(model: Model) -> Weights:
    """As `weights_of`; of an encoder-decoder its decoder, whose stream the logits read."""
    found = stacks_of(model)
    return found.decoder if isinstance(found, Stacks) else found


def _say(model: Model, what: str) -> None:
    """A warning, once for each model."""
    if what not in _SAID.setdefault(model, set()):
        _SAID[model].add(what)
        log.warning("%s", what)


def replay_of(model: Model, longest: int) -> Weights | Stacks | str:
    """The weights that replay computes with, or why it does not serve rows of so many tokens."""
    now = model.now()
    if now.foreign:
        return (
            f"the replay engine computes from the weights alone and cannot read {now.foreign[0]}"
            + (f" and {len(now.foreign) - 1} more" if len(now.foreign) > 1 else "")
            + ", which came onto the model after it was loaded. Remove it, merge an adapter into "
            "the weights (merge_and_unload), or use engine='hooks', which runs through it."
        )
    found = now.once("weights", lambda: _built(model))
    if isinstance(found, str):
        return found
    lengths = now.once("lengths of replay", lambda: lengths_of(model, found))
    length = length_for(model.facts, lengths, longest)
    gap = partial(stacks_gap if isinstance(found, Stacks) else replay_gap, model, found, length)
    wrong = _passed(model, ("replay", length), gap)
    if wrong:
        return (
            f"the replay engine does not reproduce this {model.facts.architecture} in rows of "
            f"{length} tokens: {wrong}."
        )
    return found


def _rounding(model: Model) -> str:
    """Why another way to the same numbers is not the model's; nothing where it is."""
    for module in model.live.watch.packed:
        if quantised.known(module) and (by := quantised.rounds(module)):
            rows = "all rows that run at once" if by == "batch" else "each token's own size"
            return (
                "the replay engine adds up in its own order and runs rows together as it suits it, "
                f"and {model.truth.name_of(module)} ({quantised.told(module)}) rounds what enters "
                f"it to 8 bits by {rows}: a difference in the last place becomes a step. Load the "
                "model with weights that alone are quantised (bitsandbytes' 4 bit, torchao's "
                "Int8WeightOnlyConfig), or take engine='hooks'."
            )
    return ""


def _built(model: Model) -> Weights | Stacks | str:
    try:
        return read_stacks(model) if model.facts.n_encoder_layers else read(model)
    except Unsupported as refusal:
        return str(refusal)
    except Exception as error:  # whatever a part is that stands where a plain one is expected
        return (
            f"the replay engine cannot read the weights of this {model.facts.architecture}: "
            f"{type(error).__name__}: {error}."
        )


def _require_recurrence(model: Model) -> None:
    """Refuse a recurrent model whose numbers are not those of its cells' weights alone."""
    foreign = model.now().foreign
    wrong = str(foreign[0]) if foreign else ""
    if not foreign:
        wrong = _passed(model, ("recurrent", SHORT), lambda: recurrent_gap(model, SHORT))
    if wrong:
        raise Unsupported(
            f"the engine 'recurrent' computes {model.name} from the weights of its cells, and that "
            f"is not what the model computes now: {wrong}. Take off what was put on it "
            "(interp.load loads it anew), and intervene with interp.ablate, patch or intervene."
        )


def _no_hooks(model: Model, longest: int) -> str:
    """Why the bridge is not what Hugging Face computes; nothing if it is."""
    lengths = model.now().once("lengths of hooks", lambda: lengths_of(model))
    length = length_for(model.facts, lengths, longest)
    wrong = _passed(model, ("hooks", length), lambda: bridge_gap(model, length))
    if not wrong:
        return ""
    idle = [str(one) for one in model.now().foreign if not one.point]
    why = (
        f"Likely {idle[0]} stands where TransformerLens computes by itself."
        if idle
        else "TransformerLens does not carry this architecture over as it is configured."
    )
    return (
        f"the bridge of TransformerLens does not reproduce this {model.facts.architecture} in rows "
        f"of {length} tokens: {wrong}. {why}"
    )


def _passed(model: Model, key: tuple[str, int], gap: Callable[[], Gap | None]) -> str:
    """What is wrong with an engine in rows of a length, found out once; nothing if it is right."""
    if explaining():
        return model.now().found.get(key, "")

    def find() -> str:
        try:
            found = gap()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # then it is not right either
            return f"it fails with {type(error).__name__}: {error}"
        return "" if found is None else str(found)

    return model.now().once(key, find)


def _require_sort(model: Model, engine: EngineName) -> None:
    """Refuse an engine of another sort of model."""
    facts = model.facts
    if facts.recurrent and engine in ("replay", "hooks"):
        raise Unsupported(
            f"the {engine} engine is of transformers, and {model.name} is an {facts.architecture}, "
            "whose layers hand a state from position to position. Leave engine= out: the engine "
            "'recurrent' intervenes inside of that."
        )
    if engine == "recurrent" and not facts.recurrent:
        raise Unsupported(
            f"the engine 'recurrent' is of LSTMs, and {model.name} is a {facts.architecture}, "
            "which hands no state from position to position. Leave engine= out."
        )
