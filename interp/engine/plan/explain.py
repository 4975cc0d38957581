"""What a call would do, without doing it."""

from collections.abc import Callable
from typing import Any, ParamSpec

from interp.core.errors import InterpError
from interp.engine.plan.batches import Plan
from interp.models.now.checks import EXPLAINING

P = ParamSpec("P")


class _Planned(Exception):
    """Carries the plan out of a method that was asked to explain itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


def explain(method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Plan:
    """What a call would do, without doing it: `print(explain(ablate, model, pairs, "heads"))`.

    Of a method that runs the model in several steps, each of which depends on the one before, the
    plan is of the first, and says so. No model runs meanwhile, not even to verify an engine.

    Returns:
        The plan: cells, layers and positions that are re-run, stacked batches, peak bytes,
        FLOPs against one full forward for each cell.

    Raises:
        InterpError: a function that runs no model, so has no plan.
        Others: as the call itself, of its arguments.
    """
    name = getattr(method, "__qualname__", str(method))
    token = EXPLAINING.set(name)
    try:
        method(*args, **kwargs)
    except _Planned as planned:
        return planned.plan
    finally:
        EXPLAINING.reset(token)
    raise InterpError(_no_plan(name))


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
