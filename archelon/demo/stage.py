"""Where the demo plays: an all-in-one, its bundles, and a tenant whose requests are shown as they are sent.

Requests are plain HTTP here and not the client's, so that what is shown is what anybody could type with curl.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import urllib3

from ..all_in_one import AllInOne
from ..connection import Connection
from ..state_directory import StateDirectory

_JSON: Final = "application/occi+json"
_STATE: Final = "mcn.service.state"
_MESSAGE: Final = "mcn.service.state.message"
_PAUSE: Final = 0.1
#: Taken out of a page before it is shown: people read its words.
_TAG: Final = re.compile("<[^>]{0,500}>")


class ExpectedError(Exception):
    """A step did not come out. The text says what was expected, and what was there instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered."""

    status: int
    document: Mapping[str, Any]
    location: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A process of an instance: an orchestrator, or a node of one of its stacks.

    Attributes:
        pid: of the process; None while it has none.
        ports: by name.
    """

    instance: str
    process: str
    pid: int | None
    ports: Mapping[str, int]

    @property
    def is_orchestrator(self) -> bool:
        """Whether it is the instance's orchestrator."""
        return self.process == "orchestrator"


class Stage:
    """The all-in-one, seen by a tenant.

    Args:
        show: takes each line of the play.
        clock, sleep: time.
    """

    def __init__(
        self,
        state: StateDirectory,
        system: AllInOne,
        *,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.state = state
        self.system = system
        self.show = show
        self.clock = clock
        self._sleep = sleep
        self._http = urllib3.PoolManager(retries=False, timeout=10.0)
        #: Path of the instance that is shown, once there is one, and where it answers.
        self.path = ""
        self.url = ""

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def connection(self, role: str) -> Connection:
        """What the command line would find for a role."""
        return Connection(self.state.url(), self.state.token(role), self.state.url("cloud_controller"))

    # requests ---------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, expected: int, quiet: bool = False
    ) -> Answer:
        """A request of the tenant to the service manager, shown with its answer. Raises ExpectedError on another status."""
        body = None if document is None else json.dumps(document)
        if not quiet:
            self.show(f"    {method} {path}{'' if body is None else '  ' + body}")
        answer = self._http.request(
            method,
            f"{self.state.url()}{path}",
            body=body,
            headers={"X-Auth-Token": self.state.token("tenant"), "Accept": _JSON, "Content-Type": _JSON},
        )
        location = answer.headers.get("Location", "")
        if not quiet:
            self.show(f"    → {answer.status} {answer.reason or ''}{'  Location: ' + location if location else ''}")
        if answer.status != expected:
            raise ExpectedError(
                f"{method} {path} was to answer {expected}; it answered {answer.status}: {answer.data.decode()[:500]}"
            )
        shown = json.loads(answer.data) if answer.data.startswith((b"{", b"[")) else {}
        return Answer(answer.status, shown if isinstance(shown, dict) else {}, location)

    def web(self, method: str, url: str, body: str | None = None, *, quiet: bool = False) -> tuple[int, str]:
        """A request to what an instance offers. Status 0: nobody answers."""
        if not quiet:
            self.show(f"    {method} {url}{'' if body is None else '  ' + body}")
        try:
            # Followed by hand: a redirect is part of what is shown.
            form = None if body is None else {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._http.request(method, url, body=body, headers=form, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            if not quiet:
                self.show(f"    → nobody answers ({type(error).__name__})")
            return 0, ""
        text = answer.data.decode(errors="replace")
        if not quiet:
            words = " ".join(_TAG.sub(" ", text).split())
            self.show(f"    → {answer.status} {answer.reason or ''}  {words[:150]}".rstrip())
        return answer.status, text

    # looking ----------------------------------------------------------------------------------------------------------

    def attributes(self) -> Mapping[str, Any]:
        """Of the instance, as it is now."""
        found = self.request("GET", self.path, expected=200, quiet=True).document.get("attributes", {})
        assert isinstance(found, dict)
        return found

    def until(self, reached: Callable[[], Any], what: str, *, seconds: float) -> Any:
        """Wait until something holds, and return it. Raises ExpectedError when the time is over."""
        end = self.clock() + seconds
        while True:
            found = reached()
            if found:
                return found
            if self.clock() > end:
                raise ExpectedError(f"{what}, within {seconds:g} s")
            self._sleep(_PAUSE)

    def follow(self, wanted: str, *, seconds: float, generation: float = 0) -> float:
        """Show the instance's states as they move until it is in the wanted one; how long that took, in seconds.

        Args:
            generation: the least that counts.

        Raises:
            ExpectedError: it failed, or the time is over.
        """
        begun = self.clock()
        seen: list[str] = []

        def reached() -> bool:
            shown = self.attributes()
            state, message = str(shown.get(_STATE)), str(shown.get(_MESSAGE) or "")
            if not seen or seen[-1] != state:
                seen.append(state)
                self.show(f"      {self.clock() - begun:5.1f} s  {state}{'  (' + message + ')' if message else ''}")
            if state == "fail":
                raise ExpectedError(f"{self.path} was to become {wanted}; it failed: {message}")
            return state == wanted and shown.get("org.archelon.generation", 0) >= generation

        self.until(
            reached, f"{self.path} was to become {wanted}; it went {' → '.join(seen) or 'nowhere'}", seconds=seconds
        )
        return self.clock() - begun

    def nodes(self, instance: str | None = None) -> list[Node]:
        """Processes of the local region, of all instances or of one."""
        found = []
        for launcher, name in self.system.running():
            if instance is not None and name.instance != instance:
                continue
            running = launcher.observe(name)
            if running is not None:
                found.append(Node(name.instance, name.process, running.pid, dict(running.ports)))
        return found

    @property
    def instance(self) -> str:
        """Id of the instance that is shown."""
        return self.path.rpartition("/")[2]
