"""`self.disposal`: what has to go when the instance does.

The service manager has the cloud controller's disposal prove that nothing is left; here an orchestrator takes down in order what
it made, and an author can say what else has to go, such as an account at somebody else's service.
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
        """Have a step taken before anything else is taken down, the last one given first.

        It is not kept over a restart: give it in `activate`, which runs at every start. It may be repeated.

        Args:
            what: the step in words, for the log.
        """
        self._steps = [each for each in self._steps if each[0] != what]
        self._steps.append((what, step))

    def run_steps(self) -> None:
        """Take them."""
        for _, step in reversed(self._steps):
            step()

    @property
    def state(self) -> str | None:
        """How far the proof is: running, done, failed; None before it begins."""
        try:
            shown = self._design.cloud(disposal.SCHEME).get(disposal.disposal_path(self._instance().id))
        except client.NotFoundError:
            return None
        return str(shown.attributes.get(disposal.DISPOSAL_STATE) or "")
