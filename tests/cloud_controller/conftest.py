"""On a cluster, a region in a namespace of its own; at a Keystone, who delegates and to whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.keystone_people import People, Person
from tests.kubernetes_cluster import KubernetesCluster
from tests.openstack import OpenStack

from .keystone_provider import KeystoneProvider
from .kubernetes.bed import Bed, region


@pytest.fixture(scope="session")
def bed(kubernetes_cluster: KubernetesCluster, orchestrator_image: str) -> Iterator[Bed]:
    """A region for the whole session; tests use instances of their own."""
    with region(str(kubernetes_cluster.kubeconfig), orchestrator_image) as made:
        yield made


@pytest.fixture(scope="module")
def keystone_service(openstack: OpenStack) -> Iterator[Person]:
    """Design's own user, who is delegated to."""
    people = People(openstack)
    yield people.person("service")
    people.close()


@pytest.fixture
def keystone_provider(openstack: OpenStack, keystone_service: Person) -> Iterator[KeystoneProvider]:
    """Delegations to that user, and people of one test."""
    people = People(openstack)
    made = KeystoneProvider(openstack, people, keystone_service)
    yield made
    people.close()
    # Trusts go with their trustors.
    assert not made.delegations.held()
