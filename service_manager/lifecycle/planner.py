"""What an instance needs next: a pure function from what is wanted and what was observed to one step.

Nothing here calls, waits or stores. `plan` looks at a `Snapshot` (one row) and names the next step; the reconciler
takes it and writes down what came of it; and so on until the step is `Rest`. Because the row says everything, a
worker that takes over from a killed one continues where it was, and a step that was taken twice is harmless, being
idempotent at its receiver.

Who answers late is recognised by numbers: an orchestrator counts its starts (`boots`), and what was told to an
earlier start has to be told again; an order counts its changes (`generation`), and a report about an earlier one is
refused.
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
    """How long one attempt of a phase may take, in seconds, and how many follow the first.

    The pause before the n-th further attempt is `pause` doubled n-1 times, at most a minute.
    """

    timeout: float = 300.0
    retries: int = 2
    pause: float = 1.0


# --- steps -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetApplication:
    """Another bundle is wanted: from here on, what the present application's orchestrator was told counts for nothing.

    A step of its own, before the application is remade: were it written after, it could forget that the new one has
    started already; and without it the old orchestrator, while it still answers, would be told the new phase.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class MakeApplication:
    """Have the cloud controller make the orchestrator's application, or remake it with another bundle."""


@dataclasses.dataclass(frozen=True, slots=True)
class Activate:
    """Tell the orchestrator whose it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class SendPhase:
    """Tell the orchestrator to carry out a phase."""

    phase: str


@dataclasses.dataclass(frozen=True, slots=True)
class Dismiss:
    """Tell the orchestrator to dispose of all it made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dispose:
    """Have disposal remove what is left and verify that nothing is; or look how far it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Remove:
    """Nothing is left: close the record and delete the instance."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enter:
    """Move to another state."""

    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class Await:
    """Somebody else's turn. Look again at `until` at the latest; `application` says whether to look at it meanwhile."""

    until: float
    application: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class TryAgain:
    """This attempt failed; the next begins at `at`."""

    at: float
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class GiveUp:
    """The phase failed for good."""

    phase: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """What is wanted is so."""


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


def plan(seen: Snapshot, patience: Mapping[str, RetryPolicy], now: float) -> Step:
    """The one next step.

    Args:
        seen: the instance.
        patience: by phase; a phase that is not in it has the default.
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
    limits = patience.get(seen.state, RetryPolicy())
    if seen.state == "destroy":
        return _destroy(seen, limits, now)
    return _phase(seen, limits, now)


def _active(seen: Snapshot, now: float) -> Step:
    if seen.wanted is WantedState.INACTIVE:
        return Enter("stop")
    if seen.changed > seen.applied or seen.made != seen.digest:
        return Enter("update")
    if seen.activated != seen.boots:
        # It has restarted: it is to know again whose it is, and what it stored.
        return Activate()
    return Rest()


def _failure(seen: Snapshot, limits: RetryPolicy, now: float) -> str | None:
    if seen.outcome == "failed":
        return seen.outcome_message or "the orchestrator gave no reason"
    overdue = seen.begun + limits.timeout
    if seen.outcome is None and now >= overdue:
        return f"{seen.state} took longer than {limits.timeout:g} s; {_what_is_missing(seen)}"
    return None


def _what_is_missing(seen: Snapshot) -> str:
    if seen.boots == 0:
        return "the orchestrator did not start"
    if seen.activated != seen.boots:
        return "the orchestrator could not be reached"
    return "the orchestrator did not report an outcome"


def _after(seen: Snapshot, limits: RetryPolicy, reason: str, *, now: float) -> Step:
    failures = seen.attempt + 1
    if failures <= limits.retries:
        return TryAgain(now + Backoff(limits.pause, _LONGEST_PAUSE).delay(failures), reason)
    return GiveUp(seen.state, reason)


def _reach(seen: Snapshot, overdue: float) -> Step | None:
    """The step that brings the orchestrator up and activates it; None where it is."""
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
    # What the orchestrator made on platforms, disposal finds by label. Instances of other services it cannot find.
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
