"""Advances an instance within a request of its orchestrator, as far as no call is needed.

`planner.plan` decides, as for the reconciler, and the request's transaction has the locks, so no decision can be outdated. The
activation and the phases that the orchestrator gets in the answer, or has got in an earlier one, need no call. Everything else
is left to a worker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa
from occi.core_model import Entity

from ..store.instances import Instance, Instances
from ..store.services import Catalogue
from . import planner
from .changes import Changes, entered
from .history import Edits, History
from .planner import RetryPolicy


@dataclasses.dataclass(slots=True)
class Advance:
    """An instance within a request's transaction, which has locked its entity and its row.

    Attributes:
        instance: with the changes so far. columns: of its row that have changed. edits: of its record.
        phases: phases that the answer has to contain; None if the orchestrator is not activated by it.
    """

    instance: Instance
    entity: Entity
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    edits: Edits = dataclasses.field(default_factory=list)
    phases: list[str] | None = None

    def change(self, columns: dict[str, Any]) -> None:
        """Change columns of the row."""
        self.columns |= columns
        self.instance = self.instance.changed(columns)


class Advancing:
    """Takes the steps that need no call.

    Args:
        retry_policy: limits of phases that a manifest does not set.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        instances: Instances,
        catalogue: Catalogue,
        history: History,
        changes: Changes,
        *,
        retry_policy: RetryPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._history = history
        self._changes = changes
        self._retry_policy = retry_policy
        self.clock = clock

    def run(
        self,
        connection: sa.Connection,
        advance: Advance,
        *,
        answers: bool = False,
        taken: Collection[str] = (),
        at: float | None = None,
    ) -> planner.Step:
        """Take steps. Returns the first that is left.

        Args:
            answers: whether the orchestrator gets its activation, and the phase to carry out, in the answer.
            taken: phases that the orchestrator has got already.
            at: time of the steps, in seconds since the epoch; now by default.
        """
        manifest = self._catalogue.manifest(advance.instance.snapshot.digest, connection)
        policies = planner.policies_of(manifest, self._retry_policy)
        now = self.clock() if at is None else at
        while True:
            seen = advance.instance.snapshot
            step = planner.plan(seen, policies, now)
            match step:
                case planner.Enter(state):
                    change = entered(seen, state, now)
                    columns = self._changes.apply(
                        connection, advance.instance, change, advance.edits, entity=advance.entity, now=now
                    )
                    advance.change(columns)
                case planner.Activate() if answers:
                    # Its address may be another one now.
                    advance.change({"activated": seen.boots, "address": None})
                    advance.phases = []
                case planner.SendPhase() | planner.Dismiss() if advance.phases is not None or seen.state in taken:
                    advance.change({"sent": seen.boots})
                    if advance.phases is not None:
                        # One after another, without another request in between.
                        advance.phases += ["deploy", "provision"] if seen.state == "deploy" else [seen.state]
                case _:
                    return step

    def write(self, connection: sa.Connection, advance: Advance, left: planner.Step | None) -> None:
        """Write the record, the row and the work; the caller saves the entity.

        Args:
            left: the step that is left; None if none was looked for, and the work is as before.
        """
        self._history.write(connection, advance.instance, advance.edits)
        self._instances.change(connection, advance.instance.id, advance.columns)
        match left:
            case planner.Rest():
                self._instances.rest(connection, advance.instance)
            case None | planner.Await():
                # A worker polls already: whatever made this instance's work due has left it waiting.
                pass
            case _:
                self._instances.wake(connection, advance.instance, under_way=True)
