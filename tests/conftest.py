"""Fixtures for all tests (databases, test beds), test order, and reports of missing requirements.

With ARCHELON_TEST_REQUIRE_ALL, as in CI, every skip is a failure.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa

from tests import beds, reruns, skips
from tests import kubernetes_cluster as clusters
from tests.kubernetes_cluster import KubernetesCluster
from tests.openstack import SHORT_LIVED_URL, OpenStack, bring_up
from tests.postgres import PostgresServer
from tests.tables import Tables
from tests.transactions import guard

pytest_plugins = ["pytester"]

guard()

# The duration of an example depends on the machine's load more than on the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

#: Timeout in seconds of a test that may have to install OpenStack first.
_WITH_OPENSTACK = 1200
#: The same for Kubernetes, whose programs may have to be built on a busy machine.
_WITH_KUBERNETES = 1800


def missing(what: str, *, package: str = "", command: str = "make test-all") -> None:
    """Skip a test, naming the missing requirement; with ARCHELON_TEST_REQUIRE_ALL (CI), fail it instead.

    Args:
        package: Debian package that provides it.
        command: runs the test, if no package is sufficient.
    """
    if os.environ.get("ARCHELON_TEST_REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and ARCHELON_TEST_REQUIRE_ALL is set")
    pytest.skip(skips.to_run(f"{what} is missing", f"apt-get install {package} && make test" if package else command))


def pytest_addoption(parser: pytest.Parser) -> None:
    for plugin in (skips, reruns):
        plugin.add_options(parser)


def _skip_is_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("ARCHELON_TEST_REQUIRE_ALL") and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and ARCHELON_TEST_REQUIRE_ALL is set: {report.longrepr}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    beds.refuse_where_down(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not skips.was_left_out(item):
        _skip_is_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _skip_is_failure(report)
    return report


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests: OpenStack first, then the longest; Kubernetes late, because its programs may still be building.

    All tests of a test bed form one xdist group, because there is one of each bed; all others are grouped by file. Tests
    that may have to wait for a test bed get a longer timeout.
    """
    limits = {"openstack": _WITH_OPENSTACK, "kubernetes": _WITH_KUBERNETES}
    first, last = [], []
    for item in items:
        needed = getattr(item, "fixturenames", ())
        for bed, limit in limits.items():
            marked = item.get_closest_marker(bed) is not None
            if marked or bed in needed or f"{bed}_cluster" in needed:
                item.add_marker(getattr(pytest.mark, bed))
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(limit))
        group = str(item.path.relative_to(config.rootpath))
        if item.get_closest_marker("kubernetes") is not None:
            group = "kubernetes"
            last.append(item)
        elif item.get_closest_marker("openstack") is not None:
            group = "openstack"
            first.append(item)
        item.add_marker(pytest.mark.xdist_group(group))
    if config.getoption("quick"):
        skips.leave_out(items)
    chosen = {*first, *last}
    others = [item for item in items if item not in chosen]
    # Tests that kill processes are long, and must not start last, when the other process is idle.
    long = {item.path for item in others if item.get_closest_marker("crash") is not None}
    others.sort(key=lambda item: item.path not in long)
    # With several processes the Kubernetes group starts earlier: such a long group must not remain until the end.
    middle = len(others) // 4 if os.environ.get("PYTEST_XDIST_WORKER") else len(others)
    items[:] = first + others[:middle] + last + others[middle:]


_TABLES = pytest.StashKey[Tables]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLES] = Tables()
    # Plugins that are registered later print later: the flaky tests come last.
    for plugin in (skips, reruns):
        config.pluginmanager.register(plugin)


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> Tables:
    """Collects tables that are printed after the last test."""
    return request.config.stash[_TABLES]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass a worker process' tables to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = session.config.stash[_TABLES].texts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the tables of a worker process that has ended (hook of pytest-xdist)."""
    node.config.stash[_TABLES].texts += getattr(node, "workeroutput", {}).get("tables", [])


@pytest.hookimpl(wrapper=True, tryfirst=True)  # wraps pytest's own, which prints the errors
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    with beds.counted(terminalreporter):
        yield
    for text in config.stash[_TABLES].texts:
        terminalreporter.write_line("")
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Iterator[KubernetesCluster]:
    """Kubernetes cluster: that of KUBECONFIG, or the test bed (Debian, root)."""
    given = clusters.given()
    if given is not None:
        yield given
        return
    lacking = clusters.obstacle()
    if lacking is not None:
        missing(f"a Kubernetes cluster (the test bed needs {lacking})", command="KUBECONFIG=… make test-all")
    with clusters.started() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def orchestrator_image(
    kubernetes_cluster: KubernetesCluster, image_storage: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Name of the orchestrators' base image, built from this checkout and loaded into the cluster."""
    if clusters.builder() is None:
        missing("a builder of images", package="buildah")
    with clusters.loaded_image(kubernetes_cluster, "orchestrator", tmp_path_factory.mktemp("images")) as image:
        yield image


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Restore the umask after a test whose program makes it stricter."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def image_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Separate storage for images, apart from the machine's."""
    with clusters.builders_storage(tmp_path_factory.mktemp("storage")):
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server: ARCHELON_TEST_POSTGRES, or a private one started for this run."""
    given = os.environ.get("ARCHELON_TEST_POSTGRES")
    if given:
        yield given
        return
    programs = PostgresServer.programs()
    if programs is None:
        missing("PostgreSQL (initdb)", package="postgresql")
    assert programs is not None
    # Outside of pytest's directories, whose mode another pytest run resets: the server runs as another user.
    directory = tempfile.TemporaryDirectory(prefix="archelon-postgres-")
    with directory as name, PostgresServer(programs, Path(name)) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a fresh SQLite database file."""
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, empty database; the test runs on each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture(scope="session")
def openstack(request: pytest.FixtureRequest) -> Iterator[OpenStack]:
    """Keystone and Heat: the cloud that OS_CLOUD names, or the project's test bed, started once."""
    yield from bring_up(request)


@pytest.fixture(scope="session")
def openstack_cloud(openstack: OpenStack) -> OpenStack:
    """The same with Nova, Neutron, Glance, Cinder and Placement."""
    return openstack


@pytest.fixture(scope="session")
def openstack_dns(openstack: OpenStack) -> OpenStack:
    """The same with Designate."""
    return openstack


@pytest.fixture(scope="session")
def short_lived(openstack: OpenStack) -> str:
    """URL of a Keystone whose tokens expire after seconds, and are valid at the other one too."""
    if openstack.bed is None:
        missing("a Keystone with short-lived tokens", command="OS_CLOUD= make test-all")
    return SHORT_LIVED_URL
