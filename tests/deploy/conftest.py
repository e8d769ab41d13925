"""Fixture: a separate namespace on the cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.kubernetes_cluster import KubernetesCluster

from .kubectl import NEEDED, Kubectl, program


@pytest.fixture
def kubectl(kubernetes_cluster: KubernetesCluster) -> Iterator[Kubectl]:
    """kubectl in a new namespace, which is deleted after the test."""
    if program() is None:
        missing(NEEDED)
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    Kubectl(kubernetes_cluster.kubeconfig)("create", "namespace", namespace)
    made = Kubectl(kubernetes_cluster.kubeconfig, namespace)
    yield made
    made("delete", "namespace", namespace, "--wait=false")
