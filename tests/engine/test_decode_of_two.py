"""Encoder-decoders that speak: with a cache as if everything were computed anew at each step."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from cases import MANY, NODES, TOLERANCE, drawn, told
from cases_of_two import TARGETS, CaseOfTwo
from hypothesis import given
from hypothesis import strategies as st
from oracle import masked
from oracle_of_two import OracleOfTwo
from speaking import Halved, N, block_of, steps, widened
from torch import Tensor

import interp
from interp import Pairs
from interp.core.errors import PairsError, PositionError
from interp.core.parts.edges import feeds
from interp.core.parts.sites import Site
from interp.core.prompts.target import Target
from interp.engine.decode.choosing import How, seeds
from interp.engine.decode.run import Asked, Said, say
from interp.engine.decode.stopping import Stop
from interp.engine.decode.when import lasting, read_once
from interp.engine.interventions import (
    Add,
    Cell,
    Freeze,
    Intervention,
    Resample,
    Scale,
    Set,
    Value,
    Zero,
)
from interp.models.model import Model

ORDINARY = 30
LASTING = ("all", "generated", "from end", "from 2", "after first")


class SpokenOfTwo(CaseOfTwo):
    """A case in time: what is done at which steps, in both stacks."""

    def __init__(self, data: st.DataObject, tiny_model: Callable, pairs: Pairs) -> None:
        super().__init__(data, tiny_model, pairs)
        self.base, self.other = "clean", "corrupt"

    def intervention(self, site: Site, readers: tuple[Site, ...] | None = None) -> Intervention:
        if read_once(site):
            place = self.data.draw(st.sampled_from(["all", "prompt", "mid", "from mid", "end"]))
            return Intervention(site, self.value(site), place, readers, normalise=False)
        if self.data.draw(st.booleans()):
            place = self.data.draw(st.sampled_from(["prompt", 0, 2]))
            return Intervention(site, self.value(site), place, readers, normalise=False)
        place = self.data.draw(st.sampled_from(LASTING))
        return Intervention(site, self.spoken(site), place, readers, normalise=False)

    def spoken(self, site: Site) -> Value:
        kinds = ["zero", "scale", "function", *(["add"] if site.kind != "pattern" else [])]
        kind = self.data.draw(st.sampled_from(kinds))
        heads = site.kind in ("q", "k", "v", "z")
        shape = [] if site.kind == "mlp_act" else [self.facts.d_head if heads else 24]
        own = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return {"zero": Zero(), "scale": Scale(-0.7), "function": Halved(), "add": Add(own)}[kind]

    def made(self, i: Intervention, row: int, acts: dict, said: int) -> Callable:
        """What an intervention makes of a site after so many tokens were said."""
        room = lasting(self.pairs, i.positions, [row], N, i.site)
        written = 1 + len(TARGETS["target"][row]) + said

        def new(x: Tensor) -> Tensor:
            mask = room if read_once(i.site) else room[:, :written]
            if isinstance(i.value, Zero):
                value = torch.zeros_like(x)
            elif isinstance(i.value, Scale):
                value = -0.7 * x
            elif isinstance(i.value, Halved):
                value = 0.5 * x - 0.1 * x.square()
            elif isinstance(i.value, Set | Add):
                own = i.value.source
                if own.ndim > 1 or (i.site.kind == "mlp_act" and own.ndim):
                    own = self.wide(own[row : row + 1], i.site, row, x)
                value = own if isinstance(i.value, Set) else x + own
            else:
                side = "corrupt" if isinstance(i.value, Resample) else "clean"
                value = self.padded(acts[side, row][str(i.site)], i.site, x)
            return masked(mask, value.expand(x.shape), x)

        return new

    def wide(self, own: Tensor, site: Site, row: int, x: Tensor) -> Tensor:
        """A value of the prompt's positions, cut to a row's."""
        length = int(self.pairs.lengths[row])
        written = 1 + len(TARGETS["target"][row])
        own = own[:, : length if read_once(site) else written]
        if site.kind == "pattern":
            own = own[..., : length if site.stack == "enc" or site.cross else written]
        return self.padded(own, site, x)

    @staticmethod
    def padded(held: Tensor, site: Site, x: Tensor) -> Tensor:
        if held.shape == x.shape:
            return held
        if site.kind == "pattern" and site.cross:  # as many keys, more queries
            out = torch.zeros_like(x)
            out[:, : held.shape[1]] = held
            return out
        return widened(held, x)


def texts_agree(data, tiny_model, oracle_of_two, pairs):
    """Any joint set of interventions in both stacks and at any time, with an edge beside."""
    case = SpokenOfTwo(data, tiny_model, pairs)
    chosen = case.sites(NODES, 3)
    made = [case.intervention(site) for site in chosen]
    edges = []
    writer, reader = case.site(("z", "attn_out", "mlp_out")), case.site(("q", "k", "v", "mlp_out"))
    if data.draw(st.booleans()) and feeds(writer, reader, case.facts):
        alike = {(s.layer, s.kind, s.stack, s.cross) for s in chosen}
        sums = {"z": "attn_out"}.get(writer.kind)
        clash = (writer.layer, sums, writer.stack, writer.cross) in alike or writer in chosen
        clash |= (reader.layer, reader.kind, reader.stack, reader.cross) in alike
        if not clash and not any(s.kind.startswith("resid") for s in chosen):
            edges = [case.intervention(writer, (reader,))]
    sets = {"plain": [], "these": [*made, *edges], "other": [case.intervention(case.site(NODES))]}
    judge: OracleOfTwo = oracle_of_two(case.family)
    start = case.model.bridge.original_model.config.decoder_start_token_id
    text = torch.randint(tiny.VOCAB, (len(sets), 2, N), generator=case.generator)

    def prefix(side: str, row: int) -> Tensor:
        name = "target" if side == "clean" else "corrupt_target"
        return torch.tensor([[start, *TARGETS[name][row]]])

    def prompt(side: str, row: int) -> Tensor:
        return getattr(case.pairs, side)[row : row + 1, : int(case.pairs.lengths[row])]

    acts = {
        (side, row): judge.forward(prompt(side, row), prefix(side, row))[1]
        for side in ("clean", "corrupt")
        for row in (0, 1)
    }
    for row in (0, 1):
        truth = []
        for cell, one in enumerate(sets.values()):
            logits = []
            for said in range(N):
                written = torch.cat([prefix("clean", row), text[cell, row, None, :said]], 1)
                named = {str(i.site): case.made(i, row, acts, said) for i in one if not i.readers}
                table: dict[str, dict] = {}
                for i in one:
                    for to in i.readers or ():
                        table.setdefault(str(to), {})[str(i.site)] = case.made(i, row, acts, said)

                def change(name: str, x: Tensor, named=named) -> Tensor:
                    return named[name](x) if name in named else x

                ran = judge.forward(prompt("clean", row), written, change, edges=table)
                logits.append(ran[0][0, -1])
            truth.append(torch.stack(logits))
        right = torch.stack(truth, 1)[:, :, None]
        for engine in ("replay",) if edges else ("replay", "hooks"):
            block = block_of(case.model, case.pairs, sets, [row], engine)
            error = (steps(block, text[:, [row]]) - right).abs().max().item()
            allowed = TOLERANCE * max(1.0, float(right.abs().max()) / 1_000)
            words = "; ".join(told(Cell(n, "", tuple(m))) for n, m in sets.items() if m)
            assert error < allowed, f"{engine} is off by {error:.1e}: {case.family}, {words}"


@pytest.mark.plain
@given(data=st.data())
@drawn(ORDINARY)
def test_a_cache_is_recomputing_everything(data, tiny_model, oracle_of_two, pairs):
    texts_agree(data, tiny_model, oracle_of_two, pairs)


@pytest.mark.slow
@given(data=st.data())
@drawn(MANY)
def test_a_cache_is_recomputing_everything_in_many_cases(data, tiny_model, oracle_of_two, pairs):
    texts_agree(data, tiny_model, oracle_of_two, pairs)


def said(model: Model, pairs: Pairs, how: How, stop: Sequence[int] = ()) -> Said:
    return say(Asked(model, pairs, {"plain": []}, N, how, Stop(model, tuple(stop))))


@pytest.mark.plain
@pytest.mark.sampled(8)
@pytest.mark.parametrize("family", tiny.TWO_STACKS)
@pytest.mark.parametrize("how", ["greedy", "drawn", "beams"])
@pytest.mark.parametrize("prefix", [(), (4, 7)])
def test_without_interventions_it_is_hugging_face(family, how, prefix, tiny_model, pairs):
    model = tiny_model(family)
    target = Target.of(clean=[prefix] * len(pairs)) if prefix else None
    pairs, hf = replace(pairs, target=target), model.bridge.original_model
    asked = {
        "greedy": (How(), {}),
        "drawn": (How(temperature=1.5, top_k=20, seed=2), {"temperature": 1.5, "top_k": 20}),
        "beams": (How(beams=3), {"num_beams": 3}),
    }[how]
    ids = [pairs.clean[i, : int(n)] for i, n in enumerate(pairs.lengths)]
    streams = seeds(2, [[*row.tolist(), *prefix] for row in ids])
    written = torch.tensor([[hf.config.decoder_start_token_id, *prefix]])
    stop = [int(said(model, pairs, asked[0]).tokens[0, 0, 1])]
    for ends in ([], stop):
        found = said(model, pairs, asked[0], ends)
        for row, prompt in enumerate(ids):
            config = {"max_new_tokens": N, "pad_token_id": 0, "eos_token_id": ends or None}
            config |= {"do_sample": how == "drawn", "decoder_input_ids": written, **asked[1]}
            config |= {"attention_mask": torch.ones_like(prompt[None])}
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(streams[row])
                out = hf.generate(prompt[None], **config)[0, written.shape[1] :].tolist()
            n = int(found.length[0, row])
            assert found.tokens[0, row, :n].tolist() == out[:n]
            assert len(out) == n or out[n - 1] in ends


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_a_table_of_an_encoder_decoder(tiny_model: Callable, pairs: Pairs, engine: str) -> None:
    model = tiny_model("bart")
    sets = {
        "read": [Intervention("enc.1.2", Scale(-3.0), "from mid")],
        "across": [Intervention("dec.1.cross.3", Zero())],
        "said": [Intervention("dec.0.mlp", Scale(-2.0), "generated")],
        "nothing": [Intervention("enc.0.attn", Freeze(), "all")],
    }
    texts = interp.generate(model, pairs, sets, n=4, stop=[], engine=engine, by_step="kl")
    frame = texts.frame.set_index(["intervention", "example"]).sort_index()
    assert [*frame.loc["nothing", "tokens"]] == [*frame.loc["plain", "tokens"]]
    assert max(max(kl) for kl in frame.loc["nothing", "kl"]) < 1e-12
    assert min(max(kl) for kl in frame.loc["read", "kl"]) > 1e-9
    for own, plain in zip(
        frame.loc["said", "log_probs"], frame.loc["plain", "log_probs"], strict=True
    ):
        assert own[0] == pytest.approx(plain[0], abs=1e-9)


def test_refusals_of_two_stacks(tiny_model: Callable, pairs: Pairs) -> None:
    model = tiny_model("bart")
    for place, error, says in (
        ("generated", PositionError, "stands where the prompt is read, once"),
        ("from ned", PositionError, "no position 'ned'"),
    ):
        with pytest.raises(error, match=says):
            made = {"it": [Intervention("enc.0.mlp", Zero(), place)]}
            interp.generate(model, pairs, made, n=2)
    for place in ("mid", "from mid"):
        with pytest.raises(PositionError, match="is one of the encoder's tokens"):
            made = {"it": [Intervention("dec.0.mlp", Zero(), place)]}
            interp.generate(model, pairs, made, n=2)
    with pytest.raises(PairsError, match="the decoder has 1 tokens, and to say n=40 more"):
        interp.generate(model, pairs, {}, n=40)
