"""Fixtures: a sandbox on this machine, a region on a test cluster, users and delegations at a Keystone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_controller.platforms.local.sandbox import Sandbox, detect_sandbox
from tests.conftest import missing
from tests.keystone_people import People, Person
from tests.kubernetes_cluster import KubernetesCluster
from tests.openstack import OpenStack

from .platforms.keystone.keystone_provider import KeystoneProvider
from .platforms.kubernetes.bed import Bed, region


@pytest.fixture(params=["without sandbox", "sandbox"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Sandbox | None:
    """The sandbox of the launcher of `tmp_path/root`: a test runs once with one and once without."""
    if request.param == "without sandbox":
        return None
    found = detect_sandbox(tmp_path / "root")
    if isinstance(found, str):
        missing(f"a sandbox ({found})", package="bubblewrap")
    assert isinstance(found, Sandbox)
    return found


@pytest.fixture(scope="session")
def bed(kubernetes_cluster: KubernetesCluster, orchestrator_image: str) -> Iterator[Bed]:
    """A region for the whole session; each test uses its own instances."""
    with region(str(kubernetes_cluster.kubeconfig), orchestrator_image) as made:
        yield made


@pytest.fixture(scope="module")
def keystone_service(openstack: OpenStack) -> Iterator[Person]:
    """Design's own user, to whom trusts delegate."""
    people = People(openstack)
    yield people.person("service")
    people.close()


@pytest.fixture
def keystone_provider(openstack: OpenStack, keystone_service: Person) -> Iterator[KeystoneProvider]:
    """Delegations to that user, and users of one test."""
    people = People(openstack)
    made = KeystoneProvider(openstack, people, keystone_service)
    yield made
    people.close()
    # Trusts are deleted with their trustors.
    assert not made.delegations.held()
