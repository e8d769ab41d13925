"""The fake cloud's default behaviour. It is passed to the process as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from archelon_api.service_manager import PHASES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All times are in seconds.

    Attributes:
        start_delay: from the order of an application until its orchestrator is up.
        restart_delay: from a crash until the restart.
        phase_delay: duration of a phase; `phase_delays` overrides it by phase.
        disposal_delay: duration of a disposal.
        takes_orders: whether orchestrators take their orders in the answer of `renew`; images of an earlier SDK do not.
        provisioning: whether the phase `provision` of a taken order has anything to do; otherwise it is reported with `deploy`.
        region: region of the cloud controller's modules in the catalogue.
        stacks: names of the stacks that an orchestrator creates on deploy.
        outputs: reported by orchestrators; `{instance}` in a text is replaced by the instance's id.
    """

    start_delay: float = 0.01
    restart_delay: float = 0.05
    phase_delay: float = 0.01
    phase_delays: Mapping[str, float] = dataclasses.field(default_factory=dict)
    disposal_delay: float = 0.01
    takes_orders: bool = True
    provisioning: bool = False
    region: str = "local"
    stacks: Sequence[str] = ("main",)
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.phase_delays) - set(PHASES))
        if unknown:
            raise ValueError(f"phase_delays names {', '.join(unknown)}; expected some of {', '.join(PHASES)}")

    def seconds_of(self, phase: str) -> float:
        """Return the duration of a phase."""
        return self.phase_delays.get(phase, self.phase_delay)
