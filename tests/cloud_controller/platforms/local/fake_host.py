"""A host as `cloud_controller.platforms.local.hosts` expects it; `forked` runs each bundle as a program."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

Running = tuple[str, int]  # the order's hash, and the process


def report(instance: str, order: str, **content: Any) -> None:
    Path("states").mkdir(exist_ok=True)
    new = Path("states", f"{instance}.json.new")
    new.write_text(json.dumps({"order": order, "message": "", "restarts": 0, "since": time.time(), **content}))
    new.rename(Path("states", f"{instance}.json"))


def log(instance: str) -> int:
    directory = Path("logs", instance)
    directory.mkdir(parents=True, exist_ok=True)
    starts = sorted(int(each.name) for each in directory.iterdir())
    return os.open(directory / str(starts[-1] if starts else 0), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def begin(kind: str, instance: str, content: bytes) -> Running:
    order, given = hashlib.sha256(content).hexdigest(), json.loads(content)
    output, pid = log(instance), 0
    assert Path("orders", f"{instance}.json").stat().st_mode & 0o777 == 0o600
    assert list(Path(given["bundle"]).iterdir())
    if kind == "forked":
        pid = os.fork()
        if pid == 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Like a fork without an exec, it shows that it is the launcher's.
            environment = {**given["environment"], "ARCHELON_PROCESS": os.environ["ARCHELON_PROCESS"]}
            os.execve(sys.executable, [sys.executable, "-I", given["bundle"]], environment)
    else:
        os.write(output, f"serving {instance} of {len(given['environment'].get('TOKEN', ''))}\n".encode())
    os.close(output)
    report(instance, order, state="running", pid=pid or os.getpid())
    return order, pid


def end(instance: str, pid: int) -> None:
    if pid:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    Path("states", f"{instance}.json").unlink(missing_ok=True)


def look(kind: str, running: dict[str, Running]) -> None:
    orders = {each.name.removesuffix(".json"): each.read_bytes() for each in Path("orders").glob("*.json")}
    for instance, (order, pid) in list(running.items()):
        if instance not in orders or hashlib.sha256(orders[instance]).hexdigest() != order:
            end(instance, pid)
            del running[instance]
    for instance, content in orders.items():
        if instance not in running:
            running[instance] = begin(kind, instance, content)


def reap(kind: str, running: dict[str, Running]) -> None:
    """Start what has ended again; what ends by itself with status 4 has failed."""
    for instance, (order, pid) in list(running.items()):
        if pid and (found := os.waitpid(pid, os.WNOHANG))[0]:
            if os.waitstatus_to_exitcode(found[1]) == 4:
                running[instance] = (order, 0)
                report(instance, order, state="failed", message="exited with status 4")
            else:
                running[instance] = begin(kind, instance, Path("orders", f"{instance}.json").read_bytes())


def main(kind: str) -> None:
    running: dict[str, Running] = {}
    for old in Path("states").glob("*"):
        old.unlink()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Path("host.sock").unlink(missing_ok=True)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind("host.sock")
    if kind == "shared":
        served = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
        served.listen()
    try:
        look(kind, running)
        while True:
            if select.select([told], [], [], 0.05)[0]:
                told.recv(1)
                look(kind, running)
            reap(kind, running)
    finally:
        for instance, (_, pid) in running.items():
            end(instance, pid)


if __name__ == "__main__":
    main(sys.argv[1])
