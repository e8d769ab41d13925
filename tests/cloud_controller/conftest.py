"""Where there is a cluster: a region on it, in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import missing

from .kubernetes.bed import Bed, region


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Any:
    if not os.environ.get("KUBECONFIG"):
        missing("a Kubernetes cluster (KUBECONFIG)")
    return SimpleNamespace(kubeconfig=os.environ["KUBECONFIG"])


@pytest.fixture(scope="session")
def python_image(kubernetes_cluster: Any) -> str:
    """An image with python3 that the cluster has."""
    return os.environ.get("ARCHELON_TEST_KUBERNETES_IMAGE", "localhost/archelon-orchestrator:test")


@pytest.fixture(scope="session")
def bed(kubernetes_cluster: Any, python_image: str) -> Iterator[Bed]:
    """A region for the whole session; tests use instances of their own."""
    with region(str(kubernetes_cluster.kubeconfig), python_image) as made:
        yield made
