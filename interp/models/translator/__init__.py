"""A translator to be understood: its two languages, its tokens, and how it is trained.

`interp.models.toy.translator` trains it, or finds it in the cache. A `Clause` is one sentence, of
which `translation` gives both sides and their alignment; `clauses` draws some.
"""

from interp.models.translator.grammar import Clause, Phrase, Translation, clauses, translation

__all__ = ["Clause", "Phrase", "Translation", "clauses", "translation"]
