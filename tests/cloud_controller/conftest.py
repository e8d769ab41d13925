"""Where there is a cluster: a region on it, in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes_cluster import KubernetesCluster

from .kubernetes.bed import Bed, region


@pytest.fixture(scope="session")
def bed(kubernetes_cluster: KubernetesCluster, orchestrator_image: str) -> Iterator[Bed]:
    """A region for the whole session; tests use instances of their own."""
    with region(str(kubernetes_cluster.kubeconfig), orchestrator_image) as made:
        yield made
