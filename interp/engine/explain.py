"""What a call would do, without doing it."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec

from interp.core.errors import InterpError
from interp.engine.plan import Plan

P = ParamSpec("P")


class _Planned(Exception):
    """Carries the plan out of a method that was asked to explain itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


_explaining: ContextVar[bool] = ContextVar("explaining", default=False)


def explain(method: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Plan:
    """What a call would do, without doing it: `print(explain(ablate, model, pairs, "heads"))`.

    Returns:
        The plan: cells, layers and positions that are re-run, stacked batches, peak bytes,
        FLOPs against one full forward for each cell.

    Raises:
        InterpError: a function that runs no model, so has no plan.
    """
    token = _explaining.set(True)
    try:
        method(*args, **kwargs)
    except _Planned as planned:
        return planned.plan
    finally:
        _explaining.reset(token)
    raise InterpError(
        f"{getattr(method, '__name__', method)} runs no model, so there is no plan; explain() "
        "takes ablate, patch, path_patch, evaluate, attention or capture."
    )


def explaining() -> bool:
    """Is a call asked what it would do? Then no model runs."""
    return _explaining.get()


def proceed(plan: Plan) -> None:
    """Go on, unless the plan is all that was asked for; every method passes here before it runs."""
    if _explaining.get():
        raise _Planned(plan)
