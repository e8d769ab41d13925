"""The present health of a stack, which is not the outcome of its last order."""

from __future__ import annotations

from typing import Literal, NamedTuple


class StackHealth(NamedTuple):
    """The present health of a stack.

    Args:
        value: `healthy`; `degraded`: it works, but something is missing; `down`: a part that it needs does not work.
        message: what is wrong, for users.
    """

    value: Literal["healthy", "degraded", "down"]
    message: str = ""


HEALTHY = StackHealth("healthy")


def of_state(state: str, reason: str) -> StackHealth | None:
    """Return the health of a stack of which only its state is known; None while an order is carried out.

    Args:
        state: in Heat's terms, such as `UPDATE_FAILED`.
    """
    action, _, status = state.partition("_")
    if action not in ("CREATE", "UPDATE", "RESUME") or status == "IN_PROGRESS":
        return None
    if status == "COMPLETE":
        return HEALTHY
    return StackHealth("down" if action == "CREATE" else "degraded", reason)
