"""`self.disposal`: steps that precede the removal of the instance.

The service manager orders the cloud controller's disposal, which verifies that nothing is left. Before that, an orchestrator
removes what it created, in order, and an author can add steps, such as closing an account at an external service.
"""

from __future__ import annotations

from collections.abc import Callable

from archelon_api import disposal
from occi_service import client

from .catalogue import Design
from .instance import Instance


class Disposal:
    """The disposal of one instance."""

    def __init__(self, design: Design, instance: Callable[[], Instance]) -> None:
        self._design = design
        self._instance = instance
        self._steps: list[tuple[str, Callable[[], None]]] = []

    def first(self, what: str, step: Callable[[], None]) -> None:
        """Add a step that runs before anything is removed; the last one added runs first.

        Steps are not kept across a restart: add them in `activate`, which runs at every start. A step may run more than once.

        Args:
            what: describes the step; a later step of the same description replaces it.
        """
        self._steps = [each for each in self._steps if each[0] != what]
        self._steps.append((what, step))

    def run_steps(self) -> None:
        """Run the steps."""
        for _, step in reversed(self._steps):
            step()

    @property
    def state(self) -> str | None:
        """The state of the disposal: running, done, failed; None before it begins."""
        try:
            shown = self._design.cloud(disposal.SCHEME).get(disposal.disposal_path(self._instance().id))
        except client.NotFoundError:
            return None
        return str(shown.attributes.get(disposal.DISPOSAL_STATE) or "")
