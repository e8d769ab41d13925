"""The guestbook's orchestrator: the default one, and a web tier that grows when an alarm says that it is busy."""

from __future__ import annotations

import sdk


class Guestbook(sdk.Orchestrator):
    """A web tier that grows with its visitors, in front of a store."""

    def provision(self) -> None:
        """Measure the web tier, and ask to be told when it is busy."""
        super().provision()
        self._watch()

    def update(self) -> None:
        """The line may have moved."""
        super().update()
        self._watch()

    def on_alarm(self, alarm: sdk.Alarm) -> None:
        """One more web process, as long as the template allows it."""
        if alarm.name == "busy":
            self.deployment.scale("web", by=1)

    def _watch(self) -> None:
        web = self.runtime.monitor(self.deployment.stack(), "web", interval=2.0)
        line = self.parameters["guestbook.busy"]
        self.runtime.alarm("busy", web, "guestbook_requests_per_second", ">", line, seconds=4.0)
