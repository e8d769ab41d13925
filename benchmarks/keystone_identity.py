"""The cost of Keystone's tokens: GET of one entity with a cached token of Keystone, relative to one of the local realm.

Both run the same service on the same database with the same entity, with different token verifiers. Keystone is the test bed's
(`deploy/testbeds/openstack`); it is called once in ten seconds, the lifetime of entries in the token cache.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from archelon_core import auth
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone
from archelon_core.database import Database
from occi_service import client
from occi_service.registry import schema
from tests.openstack import Cloud, TestBed, can_be_brought_up

from . import load
from .goals import Goals
from .persisted_reads import DATABASE, ENGINE, REALM, whole_service
from .serving import served

_KEYSTONE: Final = "ARCHELON_BENCH_KEYSTONE"
#: Many short rounds: other load on the machine affects both of a round, or disappears in the median.
_ROUNDS: Final = int(os.environ.get("ARCHELON_BENCH_ROUNDS", "101"))
_SECONDS: Final = 0.08


def of_keystone() -> Callable[..., Iterable[bytes]]:
    """Return the service with callers of Keystone (for gunicorn)."""
    return whole_service(KeystoneTokens(Keystone(os.environ[_KEYSTONE]), roles=RoleMap(), clock=time.time))


@contextmanager
def _keystone() -> Iterator[Cloud]:
    bed = TestBed(())
    ran = bed.running()
    bed.up()
    try:
        entry: Any = bed.clouds()["testbed"]
        yield Cloud(entry["auth"], entry["region_name"])
    finally:
        if not ran:
            bed.down()


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    if not can_be_brought_up():
        print("  Keystone is not available: its test bed requires Debian and root")
        return goals
    with ExitStack() as stack:
        tenant = stack.enter_context(_keystone())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archelon-bench-")))
        realm = auth.RealmFile(directory / "realm.yaml", time.time)
        # The same tenant for both, so that both read the same row.
        realm.add_tenant("demo", tenant_id=tenant.project_id)
        realm.add_user("demo", tenant="demo", roles=[auth.Role.TENANT])
        url = f"sqlite:///{directory}/state.db"
        database = Database(url)
        schema.upgrade(database)
        database.close()
        environment = {
            DATABASE: url,
            REALM: str(realm.path),
            _KEYSTONE: tenant.auth_url,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        tokens = {
            "realm": realm.issue_token("demo", tenant="demo", lifetime=None).secret,
            "keystone": tenant.token(),
        }
        ports = {
            "realm": stack.enter_context(
                served("benchmarks.persisted_reads:application", environment=environment)
            ).port,
            "keystone": stack.enter_context(
                served("benchmarks.keystone_identity:of_keystone", environment=environment)
            ).port,
        }
        with client.Client(f"http://127.0.0.1:{ports['realm']}", token=tokens["realm"]) as occi:
            path = occi.create(ENGINE.scheme + ENGINE.term, {"org.example.colour": "red"})
        # One request serves both: a service never receives a token that it does not know.
        rates = _rates(ports, tokens, path)
    ratios = sorted(there / here for there, here in rates)
    there, here = sorted(rates, key=lambda pair: pair[0] / pair[1])[len(rates) // 2]
    print(f"  GET of one entity: {there:,.0f}/s with Keystone's token, {here:,.0f}/s with the realm's")
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    print(f"  ratios of {len(ratios)} rounds: half of them within {low:.0%} to {high:.0%}")
    goals.check("keystone", ratios[len(ratios) // 2])
    return goals


def _rates(ports: dict[str, int], tokens: dict[str, str], path: str) -> list[tuple[float, float]]:
    """Return the rates of both in each round, measured one right after the other, in alternating order."""
    requests = {
        name: load.get_request(path, accept="application/occi+json", headers=[f"X-Auth-Token: {token}"])
        for name, token in tokens.items()
    }
    found = []
    for number in range(_ROUNDS):
        order = ("keystone", "realm") if number % 2 == 0 else ("realm", "keystone")
        rates = {each: load.requests_per_second(ports[each], requests[each], seconds=_SECONDS) for each in order}
        found.append((rates["keystone"], rates["realm"]))
    return found
