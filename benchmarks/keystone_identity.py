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

import prometheus_client
from occi.backend import KindBackend
from occi.core_model import Kind, Resource

from archelon_core import auth, logs, redaction
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone
from archelon_core.database import Database
from archelon_core.encryption import Cipher, generate_key
from occi_service import client
from occi_service.attributes import Attribute
from occi_service.registry import schema
from occi_service.registry.sql import SqlRegistry
from occi_service.server import service
from tests.openstack import Cloud, TestBed, can_be_brought_up

from . import load
from .goals import Goals
from .serving import served

_ENGINE: Final = Kind(
    "http://example.org/bench#",
    "engine",
    [Resource.kind],
    attributes={"org.example.colour": Attribute("mutable")},
    location="/engine/",
)
_DATABASE: Final = "ARCHELON_BENCH_DATABASE"
_REALM: Final = "ARCHELON_BENCH_REALM"
_KEYSTONE: Final = "ARCHELON_BENCH_KEYSTONE"
#: Many short rounds: other load on the machine affects both of a round, or disappears in the median.
_ROUNDS: Final = int(os.environ.get("ARCHELON_BENCH_ROUNDS", "101"))
_SECONDS: Final = 0.08
_RATES: Final = service.Rates(per_address=1e6, address_burst=1_000_000, per_tenant=1e6, tenant_burst=1_000_000)


def of_the_realm() -> Callable[..., Iterable[bytes]]:
    """Return the service with callers of the local realm (for gunicorn)."""
    return _service(auth.Realm(auth.RealmFile(Path(os.environ[_REALM]), time.time), time.time))


def of_keystone() -> Callable[..., Iterable[bytes]]:
    """Return the service with callers of Keystone (for gunicorn)."""
    return _service(KeystoneTokens(Keystone(os.environ[_KEYSTONE]), roles=RoleMap(), clock=time.time))


def _service(verifier: auth.TokenVerifier) -> Callable[..., Iterable[bytes]]:
    logs.configure(redaction.Redactor(), stream=Path(os.devnull).open("w"))  # noqa: SIM115
    registry = SqlRegistry(Database(os.environ[_DATABASE]), Cipher([generate_key()]))
    registry.set_backend(_ENGINE, KindBackend(), None)
    whole: Callable[..., Iterable[bytes]] = service.assemble(
        service.KnownCaller(registry),
        verifier,
        registry=prometheus_client.CollectorRegistry(),
        rates=_RATES,
        access_lines=False,
    )
    return whole


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
            _DATABASE: url,
            _REALM: str(realm.path),
            _KEYSTONE: tenant.auth_url,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        tokens = {
            "realm": realm.issue_token("demo", tenant="demo", lifetime=None).secret,
            "keystone": tenant.token(),
        }
        ports = {
            name: stack.enter_context(served(f"benchmarks.keystone_identity:of_{of}()", environment=environment))
            for name, of in (("realm", "the_realm"), ("keystone", "keystone"))
        }
        with client.Client(f"http://127.0.0.1:{ports['realm']}", token=tokens["realm"]) as occi:
            path = occi.create(_ENGINE.scheme + _ENGINE.term, {"org.example.colour": "red"})
        # One request serves both: a service never receives a token that it does not know.
        rates = _rates(ports, tokens, path)
    ratios = sorted(there / here for there, here in rates)
    there, here = sorted(rates, key=lambda pair: pair[0] / pair[1])[len(rates) // 2]
    print(f"  GET of one entity: {there:,.0f}/s with Keystone's token, {here:,.0f}/s with the realm's")
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    print(f"  ratios of {len(ratios)} rounds: half of them within {low:.0%} to {high:.0%}")
    goals.at_least("a cached token of Keystone, against the realm's", ratios[len(ratios) // 2], 0.9)
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
