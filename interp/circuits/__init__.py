"""How it computes: what heads attend to."""

from interp.circuits.attention import attention

__all__ = ["attention"]
