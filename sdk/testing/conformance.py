"""Conformance test of an orchestrator in any language: it is started on a bench, and led through a complete lifecycle.

    with bench.Bench() as around:
        process = subprocess.Popen(command, env={**around.environment, "HOST": "127.0.0.1", "PORT": "8080", …})
        for finding in conformance.check("http://127.0.0.1:8080", around):
            print(finding)

`python -m sdk.testing.conformance COMMAND …` does that for a command, and `python -m sdk.testing.conformance URL` for an
orchestrator that is started separately at the URL, with the environment that is printed first. Each check depends on the earlier
ones, so the first failure is the one to investigate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from archelon_api import names
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from occi_service import client

from .http_fakes import Bench

#: Seconds within which an orchestrator must respond to any request.
PROMPT: Final = 2.0
#: Seconds to wait for an orchestrator that is started separately.
START_TIMEOUT: Final = 300.0
_OTHER: Final = "00000000-0000-4000-8000-000000000000"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: `name` is the requirement, `problem` the violation, empty if there is none."""

    name: str
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the requirement is met."""
        return not self.problem

    def __str__(self) -> str:
        return f"ok    {self.name}" if self.passed else f"FAIL  {self.name}: {self.problem}"


class _Broken(Exception):  # noqa: N818 - a finding
    """A requirement is violated."""


def check(
    url: str,
    bench: Bench,
    *,
    parameters: Mapping[str, Any] | None = None,
    restart: Callable[[], None] | None = None,
    prompt: float = PROMPT,
) -> list[Finding]:
    """Test the orchestrator at a URL, which was started with the bench's environment.

    Args:
        parameters: the tenant's attributes that it needs.
        restart: kills and restarts it, with the same environment and address; without it, restarts are not tested.
        prompt: seconds within which it must respond; more on a busy machine.
    """
    with bench.orchestrator(url) as occi:
        lifecycle = _Lifecycle(url, bench, occi, parameters or {}, restart, prompt)
        return [_finding(name, step) for name, step in lifecycle.steps()]


def _finding(name: str, step: Callable[[], None]) -> Finding:
    try:
        step()
    except (_Broken, client.ClientError) as problem:
        return Finding(name, " ".join(str(problem).split())[:500])
    return Finding(name)


@dataclasses.dataclass(frozen=True)
class _Lifecycle:
    """The checks, in the order of a lifecycle."""

    _url: str
    _bench: Bench
    _occi: client.Client
    _parameters: Mapping[str, Any]
    _restart: Callable[[], None] | None
    _prompt: float

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield name and function of each check."""
        yield "renews its tokens with its start token", self.renews
        yield "refuses callers without a token, or with one for another audience", self.authentication
        yield "accepts no phase before it is activated", self.early
        yield "refuses to be activated for another instance", self.other_instance
        yield "is activated by PUT: 201, and 200 when that is repeated", self.activation
        yield "refuses tokens of another tenant or instance", self.strangers
        yield "responds to deploy at once, and reports it done", lambda: self.phase("deploy", 1)
        yield "on a repeated deploy, reports again and does nothing twice", self.repeats
        yield "shows its generation, and no secret, on GET", self.shows
        yield "carries out provision", lambda: self.phase("provision", 1)
        yield "accepts an event (200, or 503 until it is processed and reported), and the same event again", self.events
        yield "refuses an event of an unknown type", self.unknown_event
        yield "carries out update of a new generation", lambda: self.phase("update", 2)
        yield "refuses an order of an older generation", self.older
        yield "retries a report until the service manager acknowledges it", self.away
        yield "gets fresh tokens when its own have expired", self.expired
        yield "carries out start", lambda: self.phase("start", 5)
        if self._restart is not None:
            yield "after a restart, renews, restores its private state and continues", self.restarts
        yield "responds to DELETE at once, and reports destroy done", self.destroys
        yield "leaves no stack behind", self.nothing_left

    def renews(self) -> None:
        if not self._bench.await_renewal():
            raise _Broken(f"no renewal within {self._bench.seconds:g} s")

    def authentication(self) -> None:
        wrong = {"no token": "-", "another audience": self._bench.token(audience="cloud-controller")}
        self._refused(wrong, lambda occi: occi.get(wire.PATH))

    def strangers(self) -> None:
        wrong = {
            "another tenant": self._bench.token(tenant="somebody-else"),
            "another instance": self._bench.token(instance=_OTHER),
        }
        self._refused(wrong, lambda occi: self._bench.phase(occi, "deploy"))

    def _refused(self, wrong: Mapping[str, str], call: Callable[[client.Client], object]) -> None:
        for what, token in wrong.items():
            with self._bench.orchestrator(self._url, token) as occi:
                try:
                    call(occi)
                except (client.UnauthorizedError, client.ForbiddenError):
                    continue
                raise _Broken(f"a call with {what} is served; respond with 401 or 403")

    def early(self) -> None:
        self._expect((404, 409), lambda: self._bench.phase(self._occi, "deploy"), "deploy before activation")

    def other_instance(self) -> None:
        self._expect((409,), lambda: self._bench.activate(self._occi, instance=_OTHER), "another instance")

    def activation(self) -> None:
        if not self._bench.activate(self._occi, parameters=self._parameters):
            raise _Broken("the response to the first PUT is not 201")
        if self._bench.activate(self._occi, parameters=self._parameters):
            raise _Broken("the response to the second PUT is 201; respond with 200")

    def phase(self, phase: str, generation: int) -> None:
        after = len(self._bench.reports)
        started = time.monotonic()
        self._bench.phase(self._occi, phase, generation, self._parameters)
        taken = time.monotonic() - started
        if taken > self._prompt:
            raise _Broken(f"the response to {phase} took {taken:.1f} s; respond at once, and report the outcome")
        self._done(phase, generation, after)

    def _done(self, phase: str, generation: int, after: int) -> dict[str, Any]:
        report = self._bench.await_report(phase, generation, after=after)
        if report is None:
            raise _Broken(
                f"no report of {phase} for generation {generation} within {self._bench.seconds:g} s: it has "
                f"{names.GENERATION}, {manager.PHASE} and {manager.PHASE_STATE}"
            )
        if report[manager.PHASE_STATE] != "done":
            raise _Broken(f"{phase} is reported as failed: {report.get(manager.PHASE_MESSAGE)}")
        private = report.get(manager.PRIVATE)
        if private is not None and len(json.dumps(private)) > manager.PRIVATE_LIMIT:
            raise _Broken(f"its private state is larger than {manager.PRIVATE_LIMIT} bytes")
        return report

    def repeats(self) -> None:
        before = [each for each in self._bench.cloud.requests if not each.startswith("GET")]
        self.phase("deploy", 1)
        written = [each for each in self._bench.cloud.requests if not each.startswith("GET")][len(before) :]
        if written:
            raise _Broken(f"it wrote again: {', '.join(written[:3])}")

    def shows(self) -> None:
        shown = self._occi.get(wire.PATH).attributes
        if shown.get(names.GENERATION) != 1:
            raise _Broken(f"{names.GENERATION} is {shown.get(names.GENERATION)!r}; expected 1")
        secret = sorted({wire.TOKENS, wire.PRIVATE, wire.PARAMETERS} & shown.keys())
        if secret:
            raise _Broken(f"it shows {', '.join(secret)}")

    def events(self) -> None:
        def send() -> None:
            started = time.monotonic()
            refused: client.UnavailableError | None = None
            try:
                self._bench.notify(self._occi, "conformance-1", "tick")
            except client.UnavailableError as error:
                refused = error
            if time.monotonic() - started > self._prompt:
                raise _Broken(
                    f"the response took more than {self._prompt:g} s; respond with 503, and process it meanwhile"
                )
            if refused is not None and refused.retry_after is None:
                raise _Broken("a 503 for an event needs a Retry-After")
            if refused is not None:
                raise refused

        # Until its report is acknowledged, the response may be 503, but in time.
        self._bench.away = 1
        if not self._bench.settle(send):
            raise _Broken(f"no 200 within {self._bench.seconds:g} s of redelivery")
        self._bench.away = 0
        send()

    def unknown_event(self) -> None:
        self._expect((400,), lambda: self._bench.notify(self._occi, "conformance-2", "surprise"), "an unknown event")

    def older(self) -> None:
        self._expect((409,), lambda: self._bench.phase(self._occi, "update", 1, self._parameters), "generation 1")

    def away(self) -> None:
        self._bench.away = 2
        self.phase("update", 3)
        if self._bench.away:
            raise _Broken("it did not retry")

    def expired(self) -> None:
        self._bench.expire()
        self.phase("stop", 4)

    def restarts(self) -> None:
        assert self._restart is not None
        private, renewals = self._bench.private(), self._bench.renewals
        self._restart()
        if not self._bench.await_renewal(renewals):
            raise _Broken("it did not renew with its start token")
        if not self._bench.activate(self._occi, 6, parameters=self._parameters, private=private):
            raise _Broken("it is activated already; the response to the PUT after a restart is 201")
        self.phase("update", 6)

    def destroys(self) -> None:
        after = len(self._bench.reports)
        started = time.monotonic()
        self._bench.phase(self._occi, "destroy")
        if time.monotonic() - started > self._prompt:
            raise _Broken("there is no prompt response to DELETE")
        self._done("destroy", 6 if self._restart is not None else 5, after)

    def nothing_left(self) -> None:
        left = self._bench.cloud.find("deploy", "/stack/", {})
        if left:
            raise _Broken(f"still present: {', '.join(each.location for each in left)}")

    @staticmethod
    def _expect(statuses: tuple[int, ...], call: Callable[[], object], what: str) -> None:
        wanted = " or ".join(str(each) for each in statuses)
        try:
            call()
        except client.StatusError as error:
            if error.status not in statuses:
                raise _Broken(f"the response to {what} is {error.status}; respond with {wanted}") from None
            return
        raise _Broken(f"{what} is accepted; respond with {wanted}")


@contextlib.contextmanager
def started(
    command: Sequence[str],
    bench: Bench,
    *,
    seconds: float = 20.0,
    output: int | None = None,
    port: int | None = None,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a command on the bench, and wait until it listens; yield its URL and a function that restarts it.

    Args:
        output: file descriptor for its output; default: standard output and error of this process.
        port: to listen at; default: a free one.

    Raises:
        RuntimeError: it ends, or does not listen in time.
    """
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    environment = {**os.environ, **bench.environment, "HOST": "127.0.0.1", "PORT": str(port)}
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        process = subprocess.Popen(  # noqa: S603 - the command is the caller's own
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        running.append(process)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"it exited with {process.returncode} before it listened on 127.0.0.1:{port}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"it does not listen on 127.0.0.1:{port}; take HOST and PORT from the environment")

    def kill() -> None:
        process = running.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart() -> None:
        kill()
        start()

    try:
        start()
        yield f"http://127.0.0.1:{port}", restart
    finally:
        while running:
            kill()


def is_url(text: str) -> bool:
    """Whether an argument is the URL of an orchestrator rather than a command."""
    return text.startswith(("http://", "https://"))


def environment_lines(bench: Bench) -> list[str]:
    """Return the environment of an orchestrator as lines `NAME=value`, the format of container tools' files."""
    return [f"{name}={value}" for name, value in bench.environment.items()]


def await_start(url: str, bench: Bench, *, timeout: float = START_TIMEOUT) -> str:
    """Wait until the separately started orchestrator at a URL renews its tokens; return the URL.

    Raises:
        RuntimeError: it did not do so in time.
    """
    if not bench.await_renewal(seconds=timeout):
        raise RuntimeError(
            f"no orchestrator renewed its tokens at {bench.url} within {timeout:g} s; start the one at {url} with the "
            "environment printed above"
        )
    return url


def main(arguments: Sequence[str] | None = None) -> None:
    """Test an orchestrator, print the findings, and exit with 1 if a check failed. Raises SystemExit."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    if not command or command[0].startswith("-") or (is_url(command[0]) and len(command) > 1):
        raise SystemExit(
            "usage: python -m sdk.testing.conformance COMMAND [ARGUMENT …]\n"
            "       python -m sdk.testing.conformance URL\n"
            "COMMAND starts the orchestrator, which listens at HOST and PORT.\n"
            "With URL, start it separately, with the environment that is printed first."
        )
    try:
        with contextlib.ExitStack() as stack:
            bench = stack.enter_context(Bench())
            restart = None
            if is_url(command[0]):
                print(*environment_lines(bench), sep="\n", file=sys.stderr, flush=True)
                url = await_start(command[0], bench)
            else:
                url, restart = stack.enter_context(started(command, bench))
            findings = check(url, bench, restart=restart)
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"{' '.join(command)[:200]}: {error}") from None
    for finding in findings:
        print(finding)
    raise SystemExit(0 if all(each.passed for each in findings) else 1)


if __name__ == "__main__":
    main()
