"""An instance at one moment, as its row has it: what is wanted, what was observed, and what a tenant may ask for then."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final


class WantedState(enum.StrEnum):
    """What the tenant last asked for."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    GONE = "gone"


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """An instance at one moment, as its row has it. Times are seconds since the epoch.

    Attributes:
        digest: bundle that the order wants; `made` is the one its application was last made with.
        generation: of the order; `changed` is the last one that changed a parameter, `applied` the last that the
            orchestrator carried out, `phase_generation` the one that the present phase carries out.
        state: mcn.service.state.
        failed: the phase to go back to from `fail`.
        attempt: failures of the present phase; `begun` is when the present attempt began, `retry_at` when it may.
        outcome: what the orchestrator reported of the present phase: done, failed, or None.
        boots: starts of the orchestrator since its application was made; `activated` and `sent` are those at which it
            was activated and told the present phase. `activated` is -1 where an application before this one was.
        disposal: how far disposal is: None, asked, failed, again (to be asked once more) or done.
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


#: What a tenant may ask for in each state; beside these, GET always.
_MOVES: Final[Mapping[str, tuple[str, ...]]] = {
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


def legal_moves(state: str) -> tuple[str, ...]:
    """What a tenant may ask for now."""
    return _MOVES[state]
