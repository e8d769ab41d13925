"""How the fake cloud behaves where a test does not ask for anything else. It travels to the process as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from archelon_api.service_manager import PHASES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All times are seconds.

    Attributes:
        start_delay: from the order of an application until its orchestrator is up.
        restart_delay: from a crash until the platform has it up again.
        phase_delay: what a phase takes; `phase_delays` says otherwise for those it names.
        disposal_delay: what a disposal takes.
        region: the region that the catalogue names for the cloud controller's modules.
        stacks: names of the stacks that an orchestrator makes on deploy.
        outputs: what orchestrators report; `{instance}` in a text is the instance's id.
    """

    start_delay: float = 0.01
    restart_delay: float = 0.05
    phase_delay: float = 0.01
    phase_delays: Mapping[str, float] = dataclasses.field(default_factory=dict)
    disposal_delay: float = 0.01
    region: str = "local"
    stacks: Sequence[str] = ("main",)
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.phase_delays) - set(PHASES))
        if unknown:
            raise ValueError(f"phase_delays names {', '.join(unknown)}; phases are {', '.join(PHASES)}")

    def seconds_of(self, phase: str) -> float:
        """What a phase takes."""
        return self.phase_delays.get(phase, self.phase_delay)
