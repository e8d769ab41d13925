"""The demo's environment: an all-in-one, and a tenant whose requests are printed as they are sent.

Requests are plain HTTP instead of the client library's, so that each can be repeated with curl.
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
#: Removed from a page before it is printed.
_TAG: Final = re.compile("<[^>]{0,500}>")


class ExpectedError(Exception):
    """A step failed. The message contains what was expected and what was found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A service's response."""

    status: int
    document: Mapping[str, Any]
    location: str


@dataclasses.dataclass(frozen=True, slots=True)
class RunningNode:
    """An orchestrator, or a node of one of an instance's stacks.

    Attributes:
        pid: None if it does not run; of an orchestrator in a host, the host's, which serves others too.
        host: name of that host, or empty.
    """

    instance: str
    process: str
    pid: int | None
    ports: Mapping[str, int]
    host: str = ""

    @property
    def is_orchestrator(self) -> bool:
        """Whether it is the instance's orchestrator."""
        return self.process == "orchestrator"


class Stage:
    """The all-in-one as its tenant sees it; `show` prints a line."""

    def __init__(self, state: StateDirectory, system: AllInOne, *, show: Callable[[str], None]) -> None:
        self.state = state
        self.system = system
        self.show = show
        self._http = urllib3.PoolManager(retries=False, timeout=10.0)
        #: Path and web endpoint of the demonstrated instance, once it exists.
        self.path = ""
        self.url = ""

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def connection(self, role: str) -> Connection:
        """Return the connection that the command line would use for a role."""
        return Connection(self.state.url(), self.state.token(role), self.state.url("cloud_controller"))

    # requests ---------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, expected: int, quiet: bool = False
    ) -> Answer:
        """Send a tenant's request to the service manager and print both. Raises ExpectedError on another status."""
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
                f"{method} {path} expected {expected}, got {answer.status}: {answer.data.decode()[:500]}"
            )
        shown = json.loads(answer.data) if answer.data.startswith((b"{", b"[")) else {}
        return Answer(answer.status, shown if isinstance(shown, dict) else {}, location)

    def web(self, method: str, url: str, body: str | None = None, *, quiet: bool = False) -> tuple[int, str]:
        """Send a request to an instance's endpoint; returns status 0 if there is no response."""
        if not quiet:
            self.show(f"    {method} {url}{'' if body is None else '  ' + body}")
        try:
            # Redirects are not followed, because the demo prints them.
            form = None if body is None else {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._http.request(method, url, body=body, headers=form, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            if not quiet:
                self.show(f"    → no response ({type(error).__name__})")
            return 0, ""
        text = answer.data.decode(errors="replace")
        if not quiet:
            words = " ".join(_TAG.sub(" ", text).split())
            self.show(f"    → {answer.status} {answer.reason or ''}  {words[:150]}".rstrip())
        return answer.status, text

    # observing --------------------------------------------------------------------------------------------------------

    def attributes(self) -> Mapping[str, Any]:
        """Return the instance's current attributes."""
        found = self.request("GET", self.path, expected=200, quiet=True).document.get("attributes", {})
        assert isinstance(found, dict)
        return found

    def until(self, reached: Callable[[], Any], what: str, *, seconds: float) -> Any:
        """Wait for a truthy result and return it. Raises ExpectedError after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            found = reached()
            if found:
                return found
            if time.monotonic() > end:
                raise ExpectedError(f"{what}, within {seconds:g} s")
            time.sleep(_PAUSE)

    def follow(self, wanted: str, *, seconds: float, generation: float = 0) -> float:
        """Print state changes until the instance is in the wanted state with at least this generation; returns the seconds taken.

        Raises ExpectedError if the instance fails or `seconds` have passed.
        """
        begun = time.monotonic()
        seen: list[str] = []

        def reached() -> bool:
            shown = self.attributes()
            state, message = str(shown.get(_STATE)), str(shown.get(_MESSAGE) or "")
            if not seen or seen[-1] != state:
                seen.append(state)
                self.show(f"      {time.monotonic() - begun:5.1f} s  {state}{'  (' + message + ')' if message else ''}")
            if state == "fail":
                raise ExpectedError(f"{self.path} was to become {wanted}; it failed: {message}")
            return state == wanted and shown.get("org.archelon.generation", 0) >= generation

        self.until(
            reached,
            f"{self.path} was to become {wanted}; its states were {' → '.join(seen) or 'none'}",
            seconds=seconds,
        )
        return time.monotonic() - begun

    def nodes(self, instance: str | None = None) -> list[RunningNode]:
        """Return processes of the local region, of all instances or of one."""
        from cloud_controller.platforms.local.orders import HOSTS

        found = []
        for launcher, name in self.system.running():
            if name.instance == HOSTS or instance not in (None, name.instance):
                continue
            running = launcher.observe(name)
            if running is not None:
                found.append(RunningNode(name.instance, name.process, running.pid, dict(running.ports), running.host))
        return found

    @property
    def instance(self) -> str:
        """Id of the demonstrated instance."""
        return self.path.rpartition("/")[2]
