"""A host of orchestrators without code: the files by which the platform directs it, and the separation of instances."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from occi_service import client
from sdk.host.shared import SharedHost
from sdk.testing.http_fakes import Bench, Server
from tests.descriptions import description
from tests.waiting import until

from .orders import MANIFEST, HostProcess, Platform

SERVICE = str(MANIFEST["service_type"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    (directory / "web.yaml").write_text(description("{}"))
    return directory


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "work")


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    """Two instances of two tenants."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(Bench(SERVICE, seconds=60)) for _ in range(2)]
        for number, bench in enumerate(found):
            bench.tenant = f"tenant-{number}"
            bench.cloud.makes["tested"] = {"tested.url": f"http://{number}/"}
        yield found


@contextlib.contextmanager
def hosting(platform: Platform) -> Iterator[str]:
    """Run a host; yield its URL."""
    host = SharedHost(platform.root)
    server = Server(("127.0.0.1", 0), host)
    host.open()
    server.start()
    try:
        yield server.url
    finally:
        server.close()
        host.close()


@pytest.fixture
def url(platform: Platform) -> Iterator[str]:
    with hosting(platform) as url:
        yield url


def serve(platform: Platform, bench: Bench, bundle: Path) -> str:
    digest = platform.order(bench, bundle)
    platform.await_state(bench.instance, "running", digest)
    assert bench.await_renewal()
    return digest


def deploy(bench: Bench, url: str) -> None:
    with bench.orchestrator(f"{url}/{bench.instance}") as occi:
        bench.activate(occi)
        bench.phase(occi, "deploy")
    report = bench.await_report("deploy")
    assert report is not None
    assert report[manager.PHASE_STATE] == "done", report


def test_instances_of_several_tenants_are_served_side_by_side(
    platform: Platform, url: str, benches: list[Bench], bundle: Path
) -> None:
    for bench in benches:
        serve(platform, bench, bundle)
        deploy(bench, url)
    assert [each.reports[-1][manager.OUTPUTS] for each in benches] == [
        {"tested.url": "http://0/"},
        {"tested.url": "http://1/"},
    ]
    # Idle instances have no thread.
    until(lambda: not {"orchestrator", "reports"} & {each.name for each in threading.enumerate()})
    one, other = benches
    with one.orchestrator(f"{url}/{other.instance}") as stranger, pytest.raises(client.UnauthorizedError):
        stranger.get(wire.PATH)


def test_each_instance_has_its_own_log(platform: Platform, benches: list[Bench], bundle: Path, tmp_path: Path) -> None:
    with HostProcess(platform, tmp_path / "log", "-m", "sdk.host", "shared") as process:
        for bench in benches:
            serve(platform, bench, bundle)
        for bench in benches:
            deploy(bench, process.url)
        for bench, foreign in zip(benches, reversed(benches), strict=True):
            until(lambda: '"phase_event":"done"' in platform.log(bench.instance), "its line is written")  # noqa: B023
            lines = [json.loads(each) for each in platform.log(bench.instance).splitlines()]
            assert {each["so_id"] for each in lines if "so_id" in each} == {bench.instance}
            for hidden in (bench.start_token, *bench.known_tokens, foreign.instance):
                assert hidden not in platform.log(bench.instance)
        assert process.stop() == 0
    lines = process.log.read_text().splitlines()
    assert not [each for each in lines if any(bench.instance in each for bench in benches)]


def test_an_instance_is_served_while_it_is_ordered(
    platform: Platform, url: str, benches: list[Bench], bundle: Path
) -> None:
    bench = benches[0]
    with bench.orchestrator(f"{url}/{bench.instance}") as occi:
        with pytest.raises(client.NotFoundError, match="this host serves no such instance"):
            occi.get(wire.PATH)
        first = serve(platform, bench, bundle)
        bench.activate(occi)
        occi.get(wire.PATH)
        # A changed order starts another orchestrator, which is not activated yet.
        second = platform.order(bench, bundle, {"CHANGED": "yes"})
        assert first != second
        platform.await_state(bench.instance, "running", second)
        assert bench.await_renewal(1)
        with pytest.raises(client.NotFoundError):
            occi.get(wire.PATH)
        platform.withdraw(bench.instance)
        until(lambda: not platform.state(bench.instance), "nothing of it runs")
        with pytest.raises((client.UnavailableError, client.NotFoundError), match=r"not running|no such instance"):
            occi.get(wire.PATH)


def test_an_order_that_cannot_be_carried_out_affects_nothing_else(
    platform: Platform, url: str, benches: list[Bench], bundle: Path
) -> None:
    bench, other = benches
    document = {"environment": bench.environment, "bundle": str(bundle)}
    for content, message in (
        (b"{", "the order is not"),
        (b"[]", "the order is not"),
        (json.dumps({**document, "environment": {"A": 1}}).encode(), "the order is not"),
        (json.dumps({**document, "bundle": "/nowhere"}).encode(), "the bundle's directory /nowhere is missing"),
        (json.dumps({**document, "environment": {}}).encode(), "the environment lacks ARCHELON_INSTANCE"),
        (json.dumps({**document, "environment": other.environment}).encode(), "it is the order of"),
    ):
        digest = platform.write(bench.instance, content)
        failed = platform.await_state(bench.instance, "failed", digest)
        assert failed["message"].startswith(message)
        assert other.start_token not in failed["message"]
    with bench.orchestrator(f"{url}/{bench.instance}") as occi, pytest.raises(client.UnavailableError):
        occi.get(wire.PATH)
    serve(platform, other, bundle)
    deploy(other, url)
    serve(platform, bench, bundle)


def test_code_does_not_run(platform: Platform, url: str, benches: list[Bench], bundle: Path) -> None:
    (bundle / "orchestrator.py").write_text("raise SystemExit('it runs')\n")
    bench = benches[0]
    serve(platform, bench, bundle)
    with bench.orchestrator(f"{url}/{bench.instance}") as occi:
        bench.activate(occi)
        bench.phase(occi, "deploy")
    report = bench.await_report("deploy")
    assert report is not None
    assert report[manager.PHASE_MESSAGE].startswith("its bundle has code")
    assert report[manager.PHASE_RETRY] is False


def test_the_successor_of_a_killed_host_starts_everything_again(
    platform: Platform, benches: list[Bench], bundle: Path
) -> None:
    bench, gone = benches
    with hosting(platform) as url:
        digest = serve(platform, bench, bundle)
        serve(platform, gone, bundle)
        deploy(bench, url)
    (platform.root / "orders" / f"{gone.instance}.json").unlink()
    bench.away = 1
    with hosting(platform) as url:
        platform.await_state(bench.instance, "running", digest)
        assert platform.state(gone.instance) == {}
        assert bench.await_renewal(1)
        with bench.orchestrator(f"{url}/{bench.instance}") as occi:
            assert bench.activate(occi, private=bench.private())


def test_a_state_that_cannot_be_written_is_written_later(
    platform: Platform, url: str, benches: list[Bench], bundle: Path
) -> None:
    bench = benches[0]
    blocked = platform.root / "states" / f"{bench.instance}.new"
    blocked.mkdir()
    digest = platform.order(bench, bundle)
    assert bench.await_renewal()
    assert platform.state(bench.instance) == {}
    blocked.rmdir()
    platform.ring()
    platform.await_state(bench.instance, "running", digest)
