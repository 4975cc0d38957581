"""Are the syntactic heads of a sentence a tree?"""

from collections.abc import Sequence


def require_tree(heads: Sequence[int | None]) -> None:
    """Refuse heads that are no tree: each word has one, one word is the root, all hang from it.

    Args:
        heads: by word: the index of its head, -1 for the root, or None; None of all is no
            annotation, and fine.

    Raises:
        ValueError: `(word, expected, found)`.
    """
    known = [head for head in heads if head is not None]
    if not known:
        return
    roots = [i for i, head in enumerate(heads) if head == -1]
    if len(roots) > 1:
        raise ValueError(
            roots[1], "one root, HEAD 0, in a sentence", f"another, word {roots[0] + 1}"
        )
    if len(known) < len(heads):
        found = f"{len(heads) - len(known)} of {len(heads)} without"
        raise ValueError(heads.index(None), "a HEAD of every word, or of none", found)
    above = list(known)
    done = [False] * len(above)
    for word in range(len(above)):
        path: list[int] = []
        while word != -1 and not done[word]:
            done[word] = True
            path.append(word)
            word = above[word]
        if word in path:
            cycle = [*path[path.index(word) :], word]
            way = " -> ".join(str(i + 1) for i in cycle)
            root = "" if roots else "; no word has HEAD 0"
            raise ValueError(word, "heads that lead to the root", f"a cycle, {way}{root}")
