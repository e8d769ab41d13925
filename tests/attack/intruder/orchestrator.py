"""The intruder's orchestrator: the default one, which also runs the attacks of its node itself and in a configuration."""

from __future__ import annotations

import json
from typing import Any

import sdk


class Intruder(sdk.Orchestrator):
    """Publishes what it and a configuration of its node could access."""

    def provision(self) -> None:
        """Attack as soon as the node is deployed."""
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
        reports = {"orchestrator": code["report"](targets, "orchestrator"), "configuration": configured}
        self.outputs["intruder.reports"] = json.dumps({who: json.loads(report) for who, report in reports.items()})
