"""A module in memory that a model is a view of: it lends its numbers, and nothing else.

The view has modules of its own over the same memory, so weights that are trained where they lie are
the view's too. Whatever else happens to the module the view cannot see: then it says so.
"""

from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.models.bridge import quantised
from interp.models.now.watch import Stamp, Watch

AGAIN = "Give the module to interp.load again."


class Lender:
    """Somebody's own module, and whether its numbers are still where they were."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.watch = module, Watch(module, module)
        self.places = {
            f"{name}.{key}".lstrip("."): (held, key, _place(tensor))
            for name, part in module.named_modules()
            for held in (part._parameters, part._buffers)
            for key, tensor in held.items()
            if tensor is not None
        }
        self.seen: Stamp = self.watch.stamp()

    def require(self) -> None:
        """Refuse a module that computes by more than the numbers that it lent.

        Raises:
            ModelError: weights are in other memory, or something was put on it.
        """
        stamp = self.watch.stamp()
        if stamp == self.seen:
            return
        # what stands on all modules stands on the view's too
        foreign = [one for one in self.watch.foreign() if one.what != "global"]
        gone = self.watch.gone()
        if foreign or gone:
            what = [*map(str, foreign), *(f"nothing at {name} any more" for name in gone)]
            more = f" and {len(what) - 3} more" if len(what) > 3 else ""
            raise ModelError(
                f"the {type(self.module).__name__} in memory that this model is a view of has "
                f"{'; '.join(what[:3])}{more}, which came there after it was given, and the view "
                "has not. Take it off; or put it on the view, model.bridge.original_model, where "
                f"every call sees it; or merge an adapter. {AGAIN}"
            )
        moved = [n for n, (held, key, at) in self.places.items() if _place(held.get(key)) != at]
        if moved:
            more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
            raise ModelError(
                f"the {type(self.module).__name__} in memory that this model is a view of has "
                f"other tensors than when it was given: {moved[0]}{more}. Likely it was moved, "
                "cast, or loaded with assign=True; weights that are trained or copied where they "
                f"lie are seen. {AGAIN}"
            )
        self.seen = stamp


def _place(tensor: Tensor | None) -> list[tuple[object, ...]]:
    """Where the numbers of a tensor lie, and how they are read."""
    parts = [] if tensor is None else [part for _, part in quantised.inside("", tensor)]
    return [(p.data_ptr(), p.device, p.dtype, tuple(p.shape), p.stride()) for p in parts]
