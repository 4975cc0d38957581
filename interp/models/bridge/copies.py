"""A copied bridge's own hooks: they hold the blocks they were made for, so they are made anew."""

from torch import nn


def rebind(bridge: nn.Module) -> None:
    """Hooks of a copied bridge write to the copy, not to the bridge that it was copied from.

    TransformerLens' hooks are functions that hold their block by a weak reference. A copy has the
    same functions: they reach into the source, and fail when nothing else holds that any more.
    """
    for block in bridge.modules():
        held = getattr(block, "_capture_hook_handles", None)
        if not held:
            continue
        block._teardown_capture_hooks()
        block._maybe_wire_capture_hooks()
        for handle in reversed(
            block._capture_hook_handles
        ):  # before those of the user, as they were
            hooks = handle.hooks_dict_ref()
            if hooks is not None:
                hooks.move_to_end(handle.id, last=False)
