"""The next step of an instance: a pure function of the wanted and the observed state.

`plan` makes no call, waits for nothing and stores nothing. From a `Snapshot` (one row) it determines the next step. The
reconciler carries out that step and writes the result, until the step is `Rest`. The row is the complete state, so a worker that
takes over from a killed one continues where it was. Repeating a step is harmless, since its receiver is idempotent.

Late messages are recognized by numbers: an orchestrator's starts are counted (`boots`), and a restarted one is sent everything
again; an order's changes are counted (`generation`), and a report about an earlier one is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, TypeAlias

from archelon_core.backoff import Backoff

from ..store.snapshot import Snapshot, WantedState

_LONGEST_PAUSE: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Timeout of one attempt of a phase, in seconds, and the number of retries.

    The pause before the n-th retry is `pause` doubled n-1 times, at most a minute.
    """

    timeout: float = 300.0
    retries: int = 2
    pause: float = 1.0


# --- steps -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetApplication:
    """Reset everything about the present application, since another bundle is wanted.

    A separate step, before the application is updated: if it were written afterwards, it could discard a start of the new
    orchestrator; without it, the old orchestrator would be sent the new phase while it still runs.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class MakeApplication:
    """Have the cloud controller create the orchestrator's application, or update it to another bundle."""


@dataclasses.dataclass(frozen=True, slots=True)
class Activate:
    """Activate the orchestrator for its instance."""


@dataclasses.dataclass(frozen=True, slots=True)
class SendPhase:
    """Have the orchestrator carry out a phase."""

    phase: str


@dataclasses.dataclass(frozen=True, slots=True)
class Dismiss:
    """Have the orchestrator dispose of everything that it created."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dispose:
    """Have disposal remove what is left and verify its absence; or poll the disposal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Remove:
    """Close the record and delete the instance: nothing is left of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enter:
    """Enter another state."""

    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class Await:
    """Wait until `until`, at most, for others; `application` is whether to poll the application meanwhile."""

    until: float
    application: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class TryAgain:
    """Retry the phase at `at`: the present attempt failed."""

    at: float
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class GiveUp:
    """Fail the phase: its last attempt failed, or its order is refused for good."""

    phase: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing: the wanted state is reached."""


Step: TypeAlias = (
    ForgetApplication
    | MakeApplication
    | Activate
    | SendPhase
    | Dismiss
    | Dispose
    | Remove
    | Enter
    | Await
    | TryAgain
    | GiveUp
    | Rest
)

_NEXT: Final[Mapping[str, str]] = {
    "initialise": "activate",
    "activate": "deploy",
    "deploy": "provision",
    "provision": "active",
    "update": "active",
    "start": "active",
    "stop": "inactive",
}


def plan(seen: Snapshot, policies: Mapping[str, RetryPolicy], now: float) -> Step:
    """Return the next step.

    Args:
        seen: the instance.
        policies: by phase; others have the default.
        now: seconds since the epoch.
    """
    if seen.wanted is WantedState.GONE and seen.state not in ("destroy", "fail"):
        return Enter("destroy")
    if seen.state == "fail":
        # A DELETE moves a failed instance on; a failed destroy waits for a retry or another DELETE.
        return Rest() if seen.wanted is not WantedState.GONE or seen.failed == "destroy" else Enter("destroy")
    if seen.retry_at is not None and now < seen.retry_at:
        return Await(seen.retry_at)
    if seen.state == "active":
        return _active(seen, now)
    if seen.state == "inactive":
        return Enter("start") if seen.wanted is WantedState.ACTIVE else Rest()
    limits = policies.get(seen.state, RetryPolicy())
    if seen.state == "destroy":
        return _destroy(seen, limits, now)
    return _phase(seen, limits, now)


def _active(seen: Snapshot, now: float) -> Step:
    if seen.wanted is WantedState.INACTIVE:
        return Enter("stop")
    if seen.changed > seen.applied or seen.made != seen.digest:
        return Enter("update")
    if seen.activated != seen.boots:
        # It has restarted, and needs its instance and its private state again.
        return Activate()
    return Rest()


def _failure(seen: Snapshot, limits: RetryPolicy, now: float) -> str | None:
    if seen.outcome in ("failed", "refused"):
        return seen.outcome_message or "the orchestrator gave no reason"
    overdue = seen.begun + limits.timeout
    if seen.outcome is None and now >= overdue:
        return f"{seen.state} took longer than {limits.timeout:g} s; {_stalled_at(seen)}"
    return None


def _stalled_at(seen: Snapshot) -> str:
    if seen.boots == 0:
        return "the orchestrator did not start"
    if seen.activated != seen.boots:
        return "the orchestrator could not be reached"
    return "the orchestrator did not report an outcome"


def _after(seen: Snapshot, limits: RetryPolicy, reason: str, *, now: float) -> Step:
    failures = seen.attempt + 1
    # The removal is tried again whatever the reason: what is left of an instance must not stay.
    hopeless = seen.outcome == "refused" and seen.state != "destroy"
    if failures <= limits.retries and not hopeless:
        return TryAgain(now + Backoff(limits.pause, _LONGEST_PAUSE).delay(failures), reason)
    return GiveUp(seen.state, reason)


def _reach(seen: Snapshot, overdue: float) -> Step | None:
    """Return the step that starts and activates the orchestrator; None if it is active."""
    if seen.made != seen.digest:
        return MakeApplication() if seen.made is None else ForgetApplication()
    if seen.boots == 0:
        return Await(overdue, application=True)
    if seen.state != "initialise" and seen.activated != seen.boots:
        return Activate()
    return None


def _phase(seen: Snapshot, limits: RetryPolicy, now: float) -> Step:
    if seen.outcome == "done":
        return Enter(_NEXT[seen.state])
    failure = _failure(seen, limits, now)
    if failure is not None:
        return _after(seen, limits, failure, now=now)
    overdue = seen.begun + limits.timeout
    step = _reach(seen, overdue)
    if step is not None:
        return step
    if seen.state in ("initialise", "activate"):
        return Enter(_NEXT[seen.state])
    if seen.sent != seen.boots:
        return SendPhase(seen.state)
    return Await(overdue, application=True)


def _destroy(seen: Snapshot, limits: RetryPolicy, now: float) -> Step:
    if seen.disposal is not None:
        return _disposal(seen, limits, now)
    # Disposal finds an orchestrator's objects on platforms by label, but it cannot find instances of other services.
    unreachable = seen.activated == 0 or (seen.made is None and not seen.dependencies)
    if seen.outcome == "done" or unreachable:
        return Dispose()
    failure = _failure(seen, limits, now)
    if failure is not None:
        step = _after(seen, limits, failure, now=now)
        return Dispose() if isinstance(step, GiveUp) and not seen.dependencies else step
    overdue = seen.begun + limits.timeout
    if seen.made is None:
        return MakeApplication()
    if seen.boots == 0:
        return Await(overdue, application=True)
    if seen.activated != seen.boots:
        return Activate()
    return Await(overdue, application=True) if seen.sent == seen.boots else Dismiss()


def _disposal(seen: Snapshot, limits: RetryPolicy, now: float) -> Step:
    if seen.disposal == "done":
        return Remove()
    if seen.disposal == "failed":
        return _after(seen, limits, seen.outcome_message or "disposal gave no reason", now=now)
    if seen.disposal == "asked" and now >= seen.begun + limits.timeout:
        reason = f"disposal took longer than {limits.timeout:g} s"
        return _after(seen, limits, f"{reason}; {seen.outcome_message}" if seen.outcome_message else reason, now=now)
    return Dispose()
