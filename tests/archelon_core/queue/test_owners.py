"""Owners of leases: a dead one is detected with certainty, and its rows are taken over before the lease expires."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.leases import LeaseLostError, Leases
from archelon_core.queue.owners import is_dead, new_owner
from tests.waiting import until

from .kettles import Kettles, observed, order

#: Seconds, far longer than the test: a takeover has not waited for it.
LEASE = 3600.0

#: Claims, says so, and goes on for ever: `python -c HOLDER URL LEASE`.
HOLDER = """
import sys, threading
from archelon_core import queue as work
from archelon_core.database import Database
from tests.archelon_core.queue.kettles import Kettles

def hang(wanted, observed):
    print("holds", flush=True)
    threading.Event().wait()

topic = work.Topic("kettle", Kettles(hang), timeout=float(sys.argv[2]))
work.Worker(work.WorkQueue(Database(sys.argv[1])), [topic], lease=float(sys.argv[2])).run_once()
"""


@pytest.fixture
def sleeper() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the owner name of a worker in it."""
    program = "from archelon_core.queue.owners import new_owner; print(new_owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_live_process_is_not_dead(sleeper: tuple[subprocess.Popen[str], str]) -> None:
    assert not is_dead(sleeper[1])
    assert not is_dead(new_owner())


def test_a_killed_process_is_dead_once_waited_for(sleeper: tuple[subprocess.Popen[str], str]) -> None:
    process, owner = sleeper
    process.kill()
    # A zombie's other threads may be in their last system call.
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "it is a zombie")
    assert not is_dead(owner)
    process.wait()
    assert is_dead(owner)


def test_a_reused_process_id_is_another_owner() -> None:
    host, pid, chance, started, space = new_owner().split(":", 4)
    assert is_dead(f"{host}:{pid}:{chance}:{int(started) - 1}:{space}")


@pytest.mark.parametrize("part", ["boot", "namespace", "all", "started"])
def test_owners_of_another_machine_or_namespace_are_unknown(
    sleeper: tuple[subprocess.Popen[str], str], part: str
) -> None:
    process, owner = sleeper
    process.kill()
    process.wait()
    host, pid, chance, started, space = owner.split(":", 4)
    boot, _, namespace = space.partition("/")
    named = {
        "boot": f"{host}:{pid}:{chance}:{started}:{boot[::-1]}/{namespace}",
        "namespace": f"{host}:{pid}:{chance}:{started}:{boot}/pid:[1]",
        "all": f"{host}:{pid}:{chance}::",
        "started": f"{host}:{pid}:{chance}::{space}",
    }
    assert is_dead(owner)
    assert not is_dead(named[part])


@pytest.mark.parametrize("owner", ["", "w1", "a:b:c:d:e", ":0:x:1:", ":-1:x:1:y", "host:1:abcdef12"])
def test_malformed_owner_names_are_not_dead(owner: str) -> None:
    assert not is_dead(owner)


def test_only_leases_of_dead_owners_are_ended(database: Database) -> None:
    queue = work.WorkQueue(database)
    for key in ("dead's", "living's", "free"):
        order(queue, key, 1)
    dead, living = (Leases(queue, ["kettle"], owner=owner, lease=LEASE) for owner in ("dead", "living"))
    claims = [claim for claim in (dead.claim(), living.claim()) if claim is not None]
    assert len(claims) == 2
    assert living.end_dead(lambda owner: owner == "dead") == 1
    after = living.claim(), living.claim(), living.claim()
    # Rows whose work has begun come first.
    assert after[0] is not None
    assert (after[0].item.key, after[0].takeover) == (claims[0].item.key, True)
    assert after[1] is not None
    assert (after[1].takeover, after[2]) == (False, None)
    # The dead worker could not write any more even if it ran.
    with pytest.raises(LeaseLostError):
        dead.end(claims[0].item, "done")


def test_leases_of_other_topics_are_not_ended(database: Database) -> None:
    queue = work.WorkQueue(database)
    order(queue, "k", 1)
    assert Leases(queue, ["kettle"], owner="dead", lease=LEASE).claim() is not None
    assert Leases(queue, ["pot"], owner="living", lease=LEASE).end_dead(lambda _owner: True) == 0


@pytest.mark.parametrize("beside", [False, True])
def test_rows_of_a_killed_process_are_taken_over_at_once(database: Database, beside: bool) -> None:
    """By the next worker that starts, and by one that runs already, which polls."""
    queue = work.WorkQueue(database)
    url = database.url.render_as_string(hide_password=False)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url, str(LEASE)], stdout=subprocess.PIPE, text=True)
    with holder, contextlib.ExitStack() as stack:
        stack.callback(holder.kill)
        order(queue, "k", 1)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        # A running worker polls by its own lease.
        worker = work.Worker(queue, [work.Topic("kettle", Kettles())], lease=1.0 if beside else LEASE)
        if beside:
            stack.enter_context(worker)
        # While it lives, its lease is respected.
        assert Leases(queue, ["kettle"], owner="another", lease=LEASE).end_dead(is_dead) == 0
        holder.kill()
        holder.wait()
        if not beside:
            stack.enter_context(worker)
        until(lambda: observed(database, "k") == 1, "it was taken over")
