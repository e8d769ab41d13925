"""The state of an instance, as stored in its row, and the requests that are permitted in each state."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final


class WantedState(enum.StrEnum):
    """The state that the tenant requested last."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    GONE = "gone"


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an instance, as stored in its row. Times are seconds since the epoch.

    Attributes:
        digest: bundle of the order; `made` is the one that its application was last created with.
        generation: of the order; `changed` is the last one that changed a parameter, `applied` the last that the
            orchestrator carried out, `phase_generation` the one that the present phase carries out.
        state: mcn.service.state.
        failed: the phase to return to from `fail`.
        attempt: failures of the present phase; `begun` is the start of the present attempt, `retry_at` of the next.
        outcome: reported by the orchestrator for the present phase: done, failed, refused (no retry cures it), or None.
        boots: starts of the orchestrator since its application was created; `activated` and `sent` are those at which it
            was activated and was sent the present phase. `activated` is -1 if a previous application was activated.
        disposal: None, asked, failed, again (to be requested once more) or done.
        dependencies: instances of other services that the orchestrator has reported as its own.
    """

    digest: str
    made: str | None = None
    wanted: WantedState = WantedState.ACTIVE
    generation: int = 1
    changed: int = 1
    applied: int = 0
    phase_generation: int = 1
    state: str = "initialise"
    failed: str | None = None
    attempt: int = 0
    begun: float = 0.0
    retry_at: float | None = None
    outcome: str | None = None
    outcome_message: str = ""
    boots: int = 0
    activated: int = 0
    sent: int = 0
    disposal: str | None = None
    dependencies: int = 0


#: The requests that are permitted in each state, besides GET.
LEGAL_MOVES: Final[Mapping[str, tuple[str, ...]]] = {
    "initialise": ("update", "delete"),
    "activate": ("update", "delete"),
    "deploy": ("update", "delete"),
    "provision": ("update", "delete"),
    "active": ("update", "stop", "delete"),
    "update": ("update", "delete"),
    "stop": ("update", "delete"),
    "inactive": ("start", "update", "delete"),
    "start": ("update", "delete"),
    "fail": ("retry", "update", "delete"),
    "destroy": ("delete",),
}


def legal_moves(state: str, health: str | None) -> tuple[str, ...]:
    """Return the requests that are permitted; one that is active but not healthy can be repaired by `retry`."""
    is_ill = state == "active" and health not in (None, "healthy")
    return ("retry", *LEGAL_MOVES[state]) if is_ill else LEGAL_MOVES[state]
