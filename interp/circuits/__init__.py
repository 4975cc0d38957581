"""How it computes: what heads attend to, and which relations between words they carry."""

from interp.circuits.attended import attended
from interp.circuits.attention import attention
from interp.circuits.relations import choose_heads, compare_heads, relations

__all__ = ["attended", "attention", "choose_heads", "compare_heads", "relations"]
