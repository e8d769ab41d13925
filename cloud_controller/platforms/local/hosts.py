"""Runs orchestrators in hosts: processes of the launcher that each serve many instances.

Bundles without code share hosts that run only our own code; bundles with code get a host per tenant and bundle, as that tenant.
The launcher's index of an instance names its host (`Launcher.enter`). In the host's directory, `members/` has an empty file per
instance, which keeps the host; the rest is in `work/`, which the host owns:

| file | by | content |
| --- | --- | --- |
| `orders/<instance>.json` | us | what to serve: environment and bundle; absent: nothing of the instance |
| `states/<instance>.json` | host | the state of the instance, and the hash of its order; absent: nothing of it runs |
| `logs/<instance>/` | host | the output, as the supervisor's `log/` |
| `host.sock` | host | a datagram tells it that orders have changed |

A tenant's code may change everything in a host's `work/`, so nothing there is trusted but for that tenant's own instances, and no
link is followed. Members and indexes change under a lock per group of hosts. Whoever is killed leaves an index, by which the next
caller finds and completes the rest: it is written first, and removed last. No call waits for a host.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from archelon_core.private_files import private_directory
from bundles.code import ORCHESTRATOR_FILE

from ...core.labels import Labels
from ..interface import ApplicationOrder, ApplicationState
from . import locks
from .launcher import Launcher, no_checkpoint
from .logs import LogChunk, read_log, read_tail
from .orders import (
    ENVIRONMENT,
    HERE,
    HOSTS,
    LIMITS,
    ORCHESTRATOR,
    RESTART,
    Name,
    ProcessLimits,
    ProcessOrder,
    ProcessProgram,
    ProcessState,
    Running,
)
from .stack_index import listing, read_file, remove_below, send_datagram

#: The group of the hosts of bundles without code.
SHARED: Final = "shared"
#: Seconds for which a host may have read an order that it has not reported yet.
_UNREPORTED: Final = 1.0
#: Seconds after which a host that does not end an instance is ended itself.
_OVERDUE: Final = 30.0
#: Greatest size in bytes of a reported state, and of the output that is kept when an instance leaves a host.
_REPORT: Final = 1 << 16
_KEPT: Final = 1 << 20
#: Greatest length of a reported message.
_MESSAGE: Final = 1000
#: Open files of a shared host for each of its instances, and bytes of memory.
_FILES: Final = 8
_MEMORY: Final = 2 << 20
#: States of a host in which nothing runs in it. It reads its orders when it is restarted.
_ENDED: Final = (
    ProcessState.RESERVED,
    ProcessState.STOPPED,
    ProcessState.EXITED,
    ProcessState.FAILED,
    ProcessState.RESTARTING,
)


class Hosts:
    """The hosts of a launcher. Several threads and processes may use those of the same root.

    Args:
        program: argument list of a host, which is completed by `shared` or `forked`.
        limits: as for `LocalApplications`; a shared host has more, for its instances.
        per_host: instances in a shared host, before another is started.
        clock: seconds since the epoch.
        checkpoint: called with a name at each point of interest to crash tests.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        program: Sequence[str] = (),
        limits: ProcessLimits | None = None,
        per_host: int = 1000,
        clock: Callable[[], float] = time.time,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        self._launcher = launcher
        self._lock = launcher.instances.parent / "hosts.lock"
        self._program = tuple(program)
        self._limits = limits or LIMITS
        self._per_host = per_host
        self._clock = clock
        self._checkpoint = checkpoint

    def serves(self, instance: str) -> bool:
        """Whether the instance is in a host, or has not left it completely."""
        return bool(self._index(instance).get("host")) or bool(self._stray_host(instance))

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Have a host serve the application as ordered. Raises LaunchError, OSError."""
        instance, name = order.labels.instance, self._name(order.labels.instance)
        group = _group(order)
        present = self._launcher.observe(name)
        if present is not None and not present.host and not self._launcher.stop(name):
            return ApplicationState("inactive", "is stopping, to be started in a host")
        is_elsewhere = present is not None and present.host and _group_of(present.host) != group
        if is_elsewhere and not self.leave(instance, keep_log=True):
            return ApplicationState("inactive", "is stopping, to be started in another host")
        with locks.open_and_take(self._lock, group):
            index = self._index(instance)
            host = index.get("host") or self._with_room(group)
            ports = self._launcher.ports(name)
            attempt = int(index.get("attempt", 0))
            text = self._text(order, ports, attempt)
            process = self._launcher.observe(Name(HOSTS, host))
            failed = self._report(process, instance, index.get("revision")).get("state") == "failed"
            if failed or index.get("stopped") or index.get("revision") != _hash(text):
                # Another order, perhaps with another port, makes the host start a failed instance again.
                attempt += failed
                entered = self._launcher.enter(
                    name,
                    order.labels,
                    {"http": 0} if group != SHARED and (failed or not ports) else {},
                    functools.partial(self._text, order, attempt=attempt),
                    host=host,
                    attempt=attempt,
                )
                if entered is None:
                    return ApplicationState("inactive", "is starting")
                text = entered
            members = self._members(host)
            private_directory(members)
            (members / instance).touch(mode=0o600)
            self._checkpoint("member entered")
        running = self._run(host, order)
        self._checkpoint("host started")
        if running.state is ProcessState.STOPPING:
            return ApplicationState("inactive", "is starting; its host is stopping")
        with locks.open_and_take(self._lock, group):
            # Another worker may have stopped, moved or removed it meanwhile.
            if self._index(instance).get("revision") == _hash(text) and (members / instance).exists():
                self._write_order(host, instance, text)
        return self.state(instance) or ApplicationState("inactive", "is starting")

    def state(self, instance: str) -> ApplicationState | None:
        """Return the state of the application; None if it is in no host."""
        index = self._index(instance)
        host = index.get("host")
        if not host:
            return None
        process = self._launcher.observe(Name(HOSTS, host))
        url = self._url(process, host, instance)
        if index.get("stopped"):
            return ApplicationState("inactive", "" if self._ended(host, instance, index) else "is stopping", url)
        state = ProcessState.RESERVED if process is None else process.state
        if state in (ProcessState.RESTARTING, ProcessState.FAILED, ProcessState.LOST, ProcessState.EXITED):
            return ApplicationState("error", f"its host has ended: {process.message if process else ''}", url)
        if state is ProcessState.STOPPING:
            return ApplicationState("inactive", "its host is stopping", url)
        if state is ProcessState.STARTING:
            return ApplicationState("inactive", "is starting", url)
        if state is not ProcessState.RUNNING or read_file(self._work(host), _order(instance), 1) is None:
            return ApplicationState("inactive", "", url)  # to be started again
        report = self._report(process, instance, index.get("revision"))
        if report.get("state") == "running":
            return ApplicationState("active", url=url)
        if report.get("state") in ("restarting", "failed"):
            return ApplicationState("error", str(report.get("message") or "ended")[:_MESSAGE], url)
        return ApplicationState("inactive", "is starting", url)

    def stop(self, instance: str) -> bool:
        """Have it served no more, but keep its log and port. True once nothing of it runs. Raises LaunchError, OSError."""
        index = self._index(instance)
        host = index.get("host") or self._stray_host(instance)
        if not host:
            return True
        with locks.open_and_take(self._lock, _group_of(host)):
            index = self._index(instance)
            if not index.get("stopped") or not index.get("host"):
                process = self._launcher.observe(Name(HOSTS, host))
                reported = bool(self._report(process, instance, index.get("revision")))
                index = {**index, "host": host, "stopped": self._clock(), "reported": reported}
                private_directory(self._launcher.work(self._name(instance)).parent)
                self._launcher.note(self._name(instance), index)
                self._checkpoint("stop recorded")
            work = self._work(host)
            try:
                remove_below(work, f"{_order(instance)}.new")
                if remove_below(work, _order(instance)):
                    self._checkpoint("order removed")
            except OSError:
                # The tenant's code may add to a directory in its place for ever: not after the host's end.
                self._launcher.stop(Name(HOSTS, host), wait=0)
                raise
            send_datagram(work, "host.sock")
            if _group_of(host) != SHARED and all(
                self._index(each).get("stopped") or self._index(each).get("host") != host
                for each in listing(self._members(host))
            ):
                self._launcher.stop(Name(HOSTS, host), wait=0)
        return self._ended(host, instance, index)

    def leave(self, instance: str, *, keep_log: bool) -> bool:
        """Stop it and remove it from its host, and with the last one the host. True once nothing is left there.

        Args:
            keep_log: keep the end of its output with the instance, for what runs it next.

        Raises:
            LaunchError, OSError: something cannot be removed.
        """
        if not self.stop(instance):
            return False
        index = self._index(instance)
        host = index.get("host")
        if not host:
            return True
        work = self._work(host)
        with locks.open_and_take(self._lock, _group_of(host)):
            if self._index(instance) != index:
                return False  # another worker has started it again
            if keep_log:
                self._keep_log(instance, read_tail(work, _KEPT, below=f"logs/{instance}"))
            for path in (f"logs/{instance}", _report(instance)):
                remove_below(work, path)
            self._checkpoint("files removed")
            members = self._members(host)
            (members / instance).unlink(missing_ok=True)
            self._checkpoint("member removed")
            # One shared host stays, for the next order.
            is_over = host != f"{SHARED}-0" and not listing(members)
            if is_over and not self._launcher.remove(Name(HOSTS, host), wait=0):
                return False
            self._launcher.note(self._name(instance), {**index, "host": ""})
            self._checkpoint("host left")
        return True

    def _keep_log(self, instance: str, tail: LogChunk) -> None:
        if tail.data:
            log = self._launcher.work(self._name(instance)).parent / "log"
            private_directory(log)
            for old in set(listing(log)) - {str(tail.start)}:
                (log / old).unlink()
            (log / str(tail.start)).write_bytes(tail.data)

    def read_log(self, instance: str, since: int) -> LogChunk:
        """Return output from position `since` on: what was kept of earlier hosts, then that of its host."""
        name = self._name(instance)
        kept = self._launcher.read_log(name, since)
        host = self._index(instance).get("host")
        if kept.data or not host:
            return kept
        return read_log(self._work(host), since, _REPORT, below=f"logs/{instance}")

    def remains(self, instance: str) -> list[str]:
        """List what an instance has in a host, other than by its index."""
        stray = self._stray_host(instance)
        return [f"{instance} in the host {stray}"] if stray else []

    def _run(self, host: str, order: ApplicationOrder) -> Running:
        """Start a host or adopt it. Raises LaunchError."""
        shared = _group_of(host) == SHARED
        limits = self._limits
        if shared and limits.memory is not None and limits.files is not None:
            limits = dataclasses.replace(
                limits,
                memory=limits.memory + self._per_host * _MEMORY,
                files=limits.files + self._per_host * _FILES,
            )
        command = (*self._program, SHARED if shared else "forked")
        readable = order.bundle
        if shared:
            readable = str(Path(order.bundle).parent)
            self._launcher.let_enter(Path(readable), "")
        content = [command, ENVIRONMENT, vars(limits), readable]
        launch = ProcessOrder(
            name=Name(HOSTS, host),
            revision=_hash(json.dumps(content, sort_keys=True)),
            labels=Labels(HOSTS, "" if shared else order.labels.tenant, "", 0),
            ports={"http": 0} if shared else {},
            limits=limits,
            restart=RESTART,
        )

        def program(ports: Mapping[str, int]) -> ProcessProgram:
            address = {"HOST": HERE, "PORT": str(ports["http"])} if shared else {}
            return ProcessProgram(command, {**ENVIRONMENT, **address}, readable=(readable,))

        return self._launcher.start(launch, program, wait=0)

    def _with_room(self, group: str) -> str:
        """Return a host of a group that has room."""
        if group != SHARED:
            return group
        number = 0
        while len(listing(self._members(f"{SHARED}-{number}"))) >= self._per_host:
            number += 1
        return f"{SHARED}-{number}"

    def _text(self, order: ApplicationOrder, ports: Mapping[str, int], attempt: int) -> str:
        address = {"HOST": HERE, "PORT": str(ports["http"])} if "http" in ports else {}
        environment = {**ENVIRONMENT, **order.environment, **address}
        return json.dumps({"environment": environment, "bundle": order.bundle, "attempt": attempt}, sort_keys=True)

    def _write_order(self, host: str, instance: str, text: str) -> None:
        work, path = self._work(host), _order(instance)
        present = read_file(work, path, len(text) + 1)
        if present is None or present[0] != text.encode():
            # A host continues the positions of the output before it.
            kept = read_tail(self._launcher.work(self._name(instance)).parent / "log", 1)
            if kept.next and not read_tail(work, 1, below=f"logs/{instance}").next:
                self._launcher.write(Name(HOSTS, host), f"logs/{instance}/{kept.next}", "")
            self._launcher.write(Name(HOSTS, host), path, text, replace=True)
            self._checkpoint("order written")
        send_datagram(work, "host.sock")

    def _ended(self, host: str, instance: str, index: Mapping[str, Any]) -> bool:
        """Whether nothing of a stopped instance runs; ends a host that does not end it."""
        name = Name(HOSTS, host)
        process = self._launcher.observe(name)
        if process is None or process.state in _ENDED:
            return True
        if process.state is ProcessState.LOST:
            return self._launcher.stop(name, wait=0)
        since = self._clock() - float(index.get("stopped", 0.0))
        is_listening = self._launcher.listens(self._name(instance))
        if process.state is ProcessState.RUNNING and not is_listening and not self._report(process, instance, None):
            # It may have read the order without having reported it yet.
            return bool(index.get("reported")) or since > _UNREPORTED
        if since > _OVERDUE:
            self._launcher.stop(name, wait=0)
        return False

    def _report(self, process: Running | None, instance: str, revision: str | None) -> dict[str, Any]:
        """Return the host's report on an instance, of this order or of any; empty if the present process made none."""
        found = None if process is None else read_file(self._work(process.name.process), _report(instance), _REPORT)
        # A start of the process takes longer than file times are apart.
        if found is None or process is None or found[1] < process.since - 0.05:
            return {}
        try:
            report = json.loads(found[0])
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            report = {"state": "unreadable"}
        return report if revision in (None, report.get("order")) else {}

    def _url(self, process: Running | None, host: str, instance: str) -> str:
        if _group_of(host) != SHARED:
            port = self._launcher.ports(self._name(instance)).get("http")
            return f"http://{HERE}:{port}/" if port else ""
        port = process.ports.get("http") if process else None
        return f"http://{HERE}:{port}/{instance}/" if port else ""

    def _stray_host(self, instance: str) -> str:
        """Return the host that an instance is a member of although its index does not say so; empty if there is none."""
        if self._index(instance).get("host"):
            return ""
        return next((host for host in self._hosts() if (self._members(host) / instance).exists()), "")

    def _hosts(self) -> list[str]:
        return [name.process for name in self._launcher.names(HOSTS)]

    def _name(self, instance: str) -> Name:
        return Name(instance, ORCHESTRATOR)

    def _index(self, instance: str) -> dict[str, Any]:
        return self._launcher.index(self._name(instance))

    def _members(self, host: str) -> Path:
        return self._work(host).parent / "members"

    def _work(self, host: str) -> Path:
        return self._launcher.work(Name(HOSTS, host))


def _group(order: ApplicationOrder) -> str:
    """Return the group of the hosts that may serve an application: of the shared ones, or the one of its tenant and bundle."""
    if not os.path.lexists(Path(order.bundle) / ORCHESTRATOR_FILE):
        return SHARED
    return f"forked-{_hash(json.dumps([order.labels.tenant, order.bundle]))[:32]}"


def _group_of(host: str) -> str:
    return SHARED if host.startswith(f"{SHARED}-") else host


def _order(instance: str) -> str:
    return f"orders/{instance}.json"


def _report(instance: str) -> str:
    return f"states/{instance}.json"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
