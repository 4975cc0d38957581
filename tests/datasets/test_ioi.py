"""The IOI pairs: the data, the balance, and every named token where its name says."""

from collections import Counter
from itertools import pairwise
from string import Formatter

import pytest
import torch
import transformers as hf
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from interp.core.door.door import ArgumentError
from interp.core.errors import InterpError, PairsError
from interp.datasets import ioi
from interp.datasets.named import files
from interp.datasets.tasks.ioi import templates, vocabulary
from interp.models.bridge import tokens

SPLIT = ("Michelle", "Benjamin", "Katherine", "castle", "guitar")
SLOTS = ("IO", "S", "S2", "PLACE", "OBJECT")


class Reader:
    """What the task needs of a model: its tokenizer."""

    name = "tiny"

    def __init__(self, tokenizer: hf.PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def encode(self, text, *, bos="model"):
        return tokens.encode(self.tokenizer, text, bos=bos)

    def encode_with_offsets(self, text, *, bos="model"):
        return tokens.encode_with_offsets(self.tokenizer, text, bos=bos)

    def token_id(self, text):
        return tokens.token_id(self.tokenizer, text)

    def show(self, ids):
        return tokens.show(self.tokenizer, ids)


def reader(words: list[str], *, frame: str = "$A") -> Reader:
    """A byte-level BPE that merges each of the words, after a space, into one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([" " + " ".join(words)], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return Reader(hf.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))


def all_words() -> list[str]:
    return [word for kind in vocabulary().values() for word in kind if word not in SPLIT]


@pytest.fixture(scope="module")
def model():
    return reader(all_words())


def slots(template: str) -> list[str]:
    return [slot for _, slot, _, _ in Formatter().parse(template) if slot]


def at(pairs, side: str, position: str) -> list[int]:
    return getattr(pairs, side)[torch.arange(len(pairs)), pairs.at(position)].tolist()


def is_abba(pairs) -> torch.Tensor:
    return pairs.at("io") < pairs.at("s1")


# The data


def test_there_are_enough_templates_and_words():
    counts = {kind: len(set(words)) for kind, words in vocabulary().items()}
    assert counts == {"names": 120, "places": 40, "objects": 40}
    assert counts == {kind: len(words) for kind, words in vocabulary().items()}
    assert len(set(templates().values())) == 20


@pytest.mark.parametrize("name", templates())
def test_a_template_has_what_the_task_needs(name):
    text = templates()[name]
    people = [slot for slot in slots(text) if slot in ("IO", "S", "S2")]
    assert sorted(slots(text)) == sorted(SLOTS)
    assert people == ["IO", "S", "S2"]
    assert "{IO} and {S}" in text
    assert text.endswith(" a {OBJECT} to")
    assert not text.startswith("{")
    assert all(f" {{{slot}}}" in text for slot in SLOTS)  # every word follows a space


def test_every_object_takes_the_article_a():
    assert not [word for word in vocabulary()["objects"] if word[0] in "aeiou"]


# The pairs


@pytest.mark.parametrize("n", [1, 7, 20, 40, 64, 80])
def test_templates_and_orders_are_balanced(model, n):
    pairs = ioi(model, n=n)
    assert len(pairs) == n
    cells = Counter(zip(pairs.cluster, is_abba(pairs).tolist(), strict=True))
    per_template = [Counter(pairs.cluster)[name] for name in templates()]
    orders = int(is_abba(pairs).sum())
    assert max(per_template) - min(per_template) <= 1
    assert abs(orders - (n - orders)) <= 1
    assert max(cells.values()) - min(cells.values()) <= (n % 40 > 0)
    if n % 40 == 0:
        assert cells == dict.fromkeys(cells, n // 40)
        assert len(cells) == 40


def test_prompts_of_one_template_have_one_length(model):
    pairs = ioi(model, n=120)
    lengths = {(c, int(k)) for c, k in zip(pairs.cluster, pairs.lengths, strict=True)}
    assert len(lengths) == 20


@pytest.mark.parametrize("corruption", ["abc", "swap"])
@pytest.mark.parametrize("frame", ["$A", "<s> $A", "<s> $A </s>"])
def test_positions_point_to_their_tokens(corruption, frame):
    model = reader(all_words(), frame=frame)
    pairs = ioi(model, n=80, corruption=corruption)
    assert at(pairs, "clean", "io") == pairs.correct.tolist()
    assert at(pairs, "clean", "s1") == at(pairs, "clean", "s2") == pairs.wrong.tolist()
    assert pairs.at("s1+1").tolist() == (pairs.at("s1") + 1).tolist()
    for side in ("clean", "corrupt"):
        ends = [model.tokenizer.decode(ids) for ids in at(pairs, side, "end")]
        prompts = [model.tokenizer.decode(row[:4]) for row in getattr(pairs, side)]
        assert all(" to".endswith(end) for end in ends)
        assert all(("<s>" in prompt) == ("<s>" in frame) for prompt in prompts)
    behind = pairs.lengths - 1 - pairs.at("end")
    assert set(behind.tolist()) == {1 if "</s>" in frame else 0}


def test_bos_none_adds_nothing():
    pairs = ioi(reader(all_words(), frame="<s> $A"), n=8, bos="none")
    assert pairs.bos == "none"
    assert 0 not in pairs.clean[:, 0]


def test_positions_follow_the_order_of_the_clauses(model):
    pairs = ioi(model, n=80)
    first, second = (
        torch.where(is_abba(pairs), pairs.at(a), pairs.at(b))
        for a, b in [("io", "s1"), ("s1", "io")]
    )
    for a, b in pairwise([first, second, pairs.at("s2"), pairs.at("end")]):
        assert (a < b).all()


def test_only_single_tokens_are_used(model):
    ids = {
        model.token_id(f" {w}") for kind in vocabulary().values() for w in kind if w not in SPLIT
    }
    pairs = ioi(model, n=400)
    text = " ".join(piece for clean, corrupt in pairs.strings for piece in clean + corrupt)
    assert set(pairs.correct.tolist()) <= ids
    assert not [word for word in SPLIT if word in text.replace(" ", "")]


def test_names_that_the_tokenizer_does_not_know_are_left_out():
    known = ["Mary", "John", *vocabulary()["names"][:20], "store", "park", "book", "ring"]
    vocab = {"<unk>": 0} | {word: i for i, word in enumerate(dict.fromkeys(known), start=1)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pairs = ioi(Reader(hf.PreTrainedTokenizerFast(tokenizer_object=backend)), n=40)
    assert 0 not in torch.cat([pairs.correct, pairs.wrong])
    assert at(pairs, "clean", "io") == pairs.correct.tolist()


def test_a_tokenizer_that_puts_a_space_before_every_text():
    # Llama 2: " Mary" alone is two tokens, the second of which follows "to".
    words = [word for kind in vocabulary().values() for word in kind]
    words += [word for text in templates().values() for word in text.replace(",", "").split()]
    pieces = ["<unk>", "▁", *dict.fromkeys(f"▁{word}" for word in words)]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    model = Reader(hf.PreTrainedTokenizerFast(tokenizer_object=backend))
    pairs = ioi(model, n=40)
    assert len(model.encode(" Mary")) == 2
    assert at(pairs, "clean", "io") == pairs.correct.tolist()
    assert set(model.show(pairs.correct.tolist())) <= {f"␣{n}" for n in vocabulary()["names"]}


# The corruptions


def test_abc_puts_three_unrelated_names_in_the_slots(model):
    pairs = ioi(model, n=200)
    names = {model.token_id(f" {name}") for name in vocabulary()["names"] if name not in SPLIT}
    columns = [at(pairs, "corrupt", p) for p in ("io", "s1", "s2")]
    for row in zip(*columns, pairs.correct.tolist(), pairs.wrong.tolist(), strict=True):
        assert len(set(row) & names) == 5


@pytest.mark.parametrize(("corruption", "changed"), [("abc", {"io", "s1", "s2"}), ("swap", {"s2"})])
def test_nothing_but_the_names_differs(model, corruption, changed):
    pairs = ioi(model, n=80, corruption=corruption)
    for row, (a, b) in enumerate(zip(pairs.clean, pairs.corrupt, strict=True)):
        differ = set((a != b).nonzero().flatten().tolist())
        assert differ == {int(pairs.at(name)[row]) for name in changed}


def test_swap_makes_the_subject_the_answer(model):
    pairs = ioi(model, n=80, corruption="swap")
    assert at(pairs, "corrupt", "s2") == pairs.correct.tolist() == at(pairs, "corrupt", "io")
    assert at(pairs, "corrupt", "s1") == pairs.wrong.tolist()


def test_both_corruptions_share_their_clean_prompts(model):
    assert torch.equal(ioi(model, seed=3).clean, ioi(model, seed=3, corruption="swap").clean)


# Seeds


def test_the_seed_decides(model):
    state = torch.get_rng_state()
    assert ioi(model, seed=5).fingerprint == ioi(model, seed=5).fingerprint
    assert len({ioi(model, seed=seed).fingerprint for seed in range(5)}) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_clusters_are_templates_and_split(model):
    pairs = ioi(model, n=80)
    assert set(pairs.cluster) == set(templates())
    first, second = pairs.split()
    assert not set(first.cluster) & set(second.cluster)


# Errors


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-3, 0), (4, -1)])
def test_impossible_numbers_are_refused(model, n, seed):
    with pytest.raises(ArgumentError, match="takes a whole number of at least"):
        ioi(model, n=n, seed=seed)


def test_an_unknown_corruption_is_refused(model):
    with pytest.raises(ArgumentError, match="ioi: corruption='swop'; did you mean 'swap'"):
        ioi(model, corruption="swop")


@pytest.mark.parametrize(
    ("kind", "keep", "message"),
    [
        ("names", 9, r"only 9 of the 120 names.*the tokenizer of tiny \(.*at least 10 are needed"),
        ("places", 1, r"only 1 of the 40 places.*at least 2 are needed.*Pairs.from_text"),
        ("objects", 0, r"only 0 of the 40 objects.*\(none\); at least 2"),
    ],
)
def test_too_few_words_are_refused(kind, keep, message):
    kept = {k: words[:keep] if k == kind else words for k, words in vocabulary().items()}
    with pytest.raises(PairsError, match=message):
        ioi(reader([word for words in kept.values() for word in words]))


def test_a_name_that_is_another_token_in_its_prompt_is_refused(model):
    class Shifted(Reader):
        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            return [i + (len(ids) > 5) for i in ids], offsets

    with pytest.raises(PairsError, match=r"is one token after .to. but not in .*of tiny"):
        ioi(Shifted(model.tokenizer))


def test_prompts_that_do_not_align_are_refused(model):
    class Stutters(Reader):
        prompts = 0

        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            self.prompts += len(ids) > 5
            extra = self.prompts % 2
            return [1] * extra + ids, [(0, 0)] * extra + offsets

    with pytest.raises(PairsError, match=r"the names of template .* stand at .*merges words"):
        ioi(Stutters(model.tokenizer))


# The files


def test_data_lies_in_the_package_or_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        files, "__file__", str(tmp_path / "interp" / "datasets" / "named" / "files.py")
    )
    with pytest.raises(InterpError, match=r"'ioi' is in neither .*installed package.*reinstall"):
        files.folder("ioi")
    beside, inside = tmp_path / "data" / "ioi", tmp_path / "interp" / "data" / "ioi"
    beside.mkdir(parents=True)
    assert files.folder("ioi") == beside
    inside.mkdir(parents=True)
    assert files.folder("ioi") == inside
