"""Heads that are no tree are refused with their line; an oracle of graph theory agrees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from interp.core.errors import CorpusError
from interp.datasets.readers.conllu import read_conllu
from interp.datasets.readers.trees import require_tree


def parsed(*heads: int | str) -> str:
    rows = (f"{i}\tw\t_\t_\t_\t_\t{head}\tdep\t_\t_" for i, head in enumerate(heads, 1))
    return "# text = w\n" + "\n".join(rows) + "\n\n"


def is_tree(heads: list[int]) -> bool:
    """One root, and as an undirected graph one piece: it has as many edges as a tree then."""
    child = np.array([i for i, head in enumerate(heads) if head >= 0], dtype=int)
    edges = (np.ones(len(child)), (child, np.array(heads)[child]))
    pieces, _ = connected_components(coo_array(edges, shape=(len(heads),) * 2), directed=False)
    return heads.count(-1) == 1 and pieces == 1


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 7))
def test_what_is_refused_is_no_tree(data, n):
    heads = data.draw(st.lists(st.integers(-1, n - 1), min_size=n, max_size=n))
    try:
        require_tree(heads)
    except ValueError as error:
        assert not is_tree(heads)
        word, _, found = error.args
        if "cycle" in found:  # the one that is named is one
            way = [int(i) - 1 for i in found.removeprefix("a cycle, ").split(";")[0].split(" -> ")]
            assert way[0] == way[-1] == word and [heads[i] for i in way[:-1]] == way[1:]
            assert ("no word has HEAD 0" in found) == (-1 not in heads)
    else:
        assert is_tree(heads)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 30))
def test_every_tree_is_read(data, n):
    """Each word hangs from an earlier one in some order, which makes every tree."""
    order = data.draw(st.permutations(range(n)))
    heads = [-1] * n
    for i in range(1, n):
        heads[order[i]] = order[data.draw(st.integers(0, i - 1))]
    corpus = read_conllu(parsed(*(head + 1 for head in heads)), name="tiny")
    assert [word.head for word in corpus.sentences[0].words] == heads


@pytest.mark.parametrize(
    ("heads", "parts"),
    [
        ((2, 1), ["line 2", "a cycle, 1 -> 2 -> 1; no word has HEAD 0"]),
        ((0, 3, 4, 2), ["line 3", "heads that lead to the root", "a cycle, 2 -> 3 -> 4 -> 2"]),
        ((0, 4, 4, 3), ["line 5", "a cycle, 4 -> 3 -> 4"]),  # 2 hangs from it
        ((0, 1, 0), ["line 4", "one root, HEAD 0", "another, word 1"]),
        ((0, 0, 0), ["line 3", "another, word 1"]),
        ((2, 3, 1), ["no word has HEAD 0"]),
        ((0, "_", 1), ["line 3", "a HEAD of every word, or of none", "1 of 3 without"]),
        ((2, "_"), ["line 3", "1 of 2 without"]),
    ],
)
def test_files_of_no_trees(heads, parts):
    with pytest.raises(CorpusError) as caught:
        read_conllu(parsed(*heads), name="tiny", file="some/tiny.conllu")
    message = str(caught.value)
    missing = [p for p in ("some/tiny.conllu, line", "expected", *parts) if p not in message]
    assert not missing, f"{missing} not in: {message}"


def test_lines_count_comments_multiword_tokens_and_empty_nodes():
    good = parsed(0)
    text = "# newdoc\n1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n1\ta\t_\t_\t_\t_\t0\t_\t_\t_\n"
    text += "1.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n2\tb\t_\t_\t_\t_\t0\t_\t_\t_\n"
    with pytest.raises(CorpusError, match="tiny, line 8: expected one root"):
        read_conllu(good + text, name="tiny")


def test_no_heads_at_all_are_no_annotation():
    assert "head" not in read_conllu(parsed("_", "_"), name="tiny").layers
    require_tree([])
