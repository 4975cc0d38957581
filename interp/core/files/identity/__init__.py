"""What a value is, as text: equal texts compute equal things.

A function is its code, constants, defaults and closure, and the values of whatever else it reads:
globals, attributes of modules, other functions. Arrays and tensors are their bytes, modules their
state, objects their class and what they hold: of a dataclass all but fields with
`metadata={"hash": False}`, and never what a `cached_property` keeps. What cannot be read is
refused, since two of them could not be told apart.

A class may say it itself: `__identity__(self) -> str`.
"""

from interp.core.files.identity.arrays import tensor_identity
from interp.core.files.identity.lying import lying_at, lying_in
from interp.core.files.identity.packages import source
from interp.core.files.identity.reading import identity
from interp.core.files.identity.unreadable import Unreadable

__all__ = ["Unreadable", "identity", "lying_at", "lying_in", "source", "tensor_identity"]
