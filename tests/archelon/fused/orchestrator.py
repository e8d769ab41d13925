"""An orchestrator that scales by one with every event, and kills itself with SIGKILL wherever a fuse file exists."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import sdk


class Fused(sdk.Orchestrator):
    """Its alarm fires once, from the start."""

    def provision(self) -> None:
        """Subscribe to the alarm."""
        super().provision()
        monitor = self.runtime.monitor(self.deployment.stack(), "web", interval=0.2)
        self.runtime.alarm("busy", monitor, "load", ">", 0.5)

    def on_alarm(self, alarm: sdk.Alarm) -> None:
        """Scale."""
        self._grow("alarm")

    def action_grow(self, _action: sdk.Action) -> None:
        """Scale."""
        self._grow("act")

    def _grow(self, event: str) -> None:
        self._burn(f"{event}-taken")
        self.deployment.scale("web", by=1)
        self.outputs["fused.grown"] = self.outputs.get("fused.grown", 0) + 1
        self._burn(f"{event}-worked-off")

    def _burn(self, name: str) -> None:
        fuse = Path(self.parameters["fused.directory"]) / name
        if fuse.exists():
            fuse.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
