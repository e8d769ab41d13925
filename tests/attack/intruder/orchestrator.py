"""The intruder's orchestrator: the default one, which tries what its node tries, and has a configuration try it."""

from __future__ import annotations

import json
from typing import Any

import sdk


class Intruder(sdk.Orchestrator):
    """Tells what it could, and what a configuration of its node could."""

    def provision(self) -> None:
        """Try, once the node is there."""
        super().provision()
        targets = self.parameters["intruder.targets"]
        code: dict[str, Any] = {"__name__": "intrusion"}
        exec(self.provisioning.file("intrusion.py"), code)
        configured = self.provisioning.configure(
            self.deployment.stack(),
            "web",
            "process",
            {"command": ["python3", "-I", "intrusion.py", "configured.json"], "environment": {"TARGETS": targets}},
        )
        reports = {"orchestrator": code["told"](targets, "orchestrator"), "configuration": configured}
        self.outputs["intruder.reports"] = json.dumps({who: json.loads(report) for who, report in reports.items()})
