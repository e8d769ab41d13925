"""The guestbook's orchestrator: the default one, and a web tier that grows when an alarm reports that it is busy."""

from __future__ import annotations

import sdk


class Guestbook(sdk.Orchestrator):
    """A web tier that grows with its visitors, in front of a store."""

    def provision(self) -> None:
        """Monitor the web tier, and set an alarm."""
        super().provision()
        self._set_alarm()

    def update(self) -> None:
        """Set the alarm again: its threshold may have changed."""
        super().update()
        self._set_alarm()

    def on_alarm(self, alarm: sdk.Alarm) -> None:
        """Add a web process, if the template permits it."""
        if alarm.name == "busy":
            self.deployment.scale("web", by=1)

    def _set_alarm(self) -> None:
        web = self.runtime.monitor(self.deployment.stack(), "web", interval=2.0)
        threshold = self.parameters["guestbook.busy"]
        self.runtime.alarm("busy", web, "guestbook_requests_per_second", ">", threshold, seconds=4.0)
