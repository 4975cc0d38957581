"""What a call would do, without doing it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

from interp.core.door.taken import shown
from interp.core.errors import InterpError
from interp.engine.plan.memory import Memory, elsewhere, parsed
from interp.engine.plan.plan import Plan
from interp.engine.plan.rates import rates
from interp.models.model import Model
from interp.models.now.checks import EXPLAINING


class _Planned(Exception):
    """Carries the plan out of a method that was asked to explain itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


def explain(
    method: Callable[..., Any],
    /,
    *args: Any,
    peak: float | int | None = None,
    bandwidth: float | int | None = None,
    launch: float | int | None = None,
    total: Memory = None,
    **kwargs: Any,
) -> Plan:
    """What a call would do, without doing it: `print(explain(ablate, model, pairs, "heads"))`.

    Of a method that runs the model in several steps, each of which depends on the one before, the
    plan is of the first, and says so. No model runs meanwhile, not even to verify an engine. In
    place of a model there may be the shape of one (`interp.shape_of`), before the other arguments
    or as `model=`.

    With rates of a machine the plan has a time, `seconds`, in the manner of a roofline: of each
    batch the longest of its products at `peak`, its bytes at `bandwidth` and its operations at
    `launch`, summed. It is a bound from below: real kernels reach a part of such rates.

    Args:
        method: a call of the library that runs a model.
        args, kwargs: as the method takes them.
        peak: FLOP/s of matrix products in the model's precision.
        bandwidth: bytes/s to and from the memory where the model is.
        launch: seconds that the host takes to launch one operation.
        total: bytes that the model's device has, or "80GB": of one that is not here it must be
            given, unless the call is given `memory=`.

    Returns:
        The plan: cells, layers and positions that are re-run, stacked batches, FLOPs against one
        full forward for each cell; bytes by device, operations launched, waits of the host.

    Raises:
        InterpError: no function, or one that runs no model, so has no plan; a rate that is no
            positive number; a device that is not here, and no `total`.
        Others: as the call itself, of its arguments.
    """
    if not callable(method):
        raise InterpError(
            f"explain: {shown(method)} is no function. Give the call itself, then its arguments: "
            "interp.explain(interp.ablate, model, pairs, 'heads')."
        )
    while isinstance(method, partial):
        args, kwargs = (*method.args, *args), {**method.keywords, **kwargs}
        method = method.func
    name = getattr(method, "__qualname__", str(method))
    machine, bytes_there = rates(peak, bandwidth, launch), parsed(total, "total")
    if args and "model" in kwargs and _takes_model_first(method):
        args = (kwargs["model"], *args)
        kwargs = {key: value for key, value in kwargs.items() if key != "model"}
    model = _model_of(args, kwargs)
    token = EXPLAINING.set(name)
    try:
        with elsewhere(model, bytes_there):
            method(*args, **kwargs)
    except _Planned as planned:
        found = replace(planned.plan, rates=machine, total=bytes_there or 0)
        if model is None:
            return found
        return replace(found, device=str(model.device), placed=model.weight_bytes)
    finally:
        EXPLAINING.reset(token)
    raise InterpError(_no_plan(name))


def _takes_model_first(method: Callable[..., Any]) -> bool:
    try:
        return next(iter(signature(method).parameters), "") == "model"
    except (TypeError, ValueError):  # some builtins have no signature
        return False


def _model_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Model | None:
    return next((one for one in (*args, *kwargs.values()) if isinstance(one, Model)), None)


def explaining() -> bool:
    """Is a call asked what it would do? Then no model runs."""
    return bool(EXPLAINING.get())


def proceed(plan: Plan) -> None:
    """Go on, unless the plan is all that was asked for; every method passes here before it runs."""
    if EXPLAINING.get():
        raise _Planned(plan)


def require_running() -> None:
    """Refuse to run a model, or to read its weights, for a call that was only to be explained.

    Raises:
        InterpError: it has no plan.
    """
    if name := EXPLAINING.get():
        raise InterpError(_no_plan(name))


def _no_plan(name: str) -> str:
    return (
        f"{name} has no plan to show: it reads weights or tables, and sweeps nothing through a "
        "model. explain() takes what does: ablate, patch, path_patch, intervene, attribute, acdc, "
        "run_circuits and its kin, evaluate, attention, capture, collect."
    )
