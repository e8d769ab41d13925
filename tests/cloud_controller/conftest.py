"""Where there is a cluster: a region on it, in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .kubernetes.bed import Bed, region


@pytest.fixture(scope="session")
def python_image(kubernetes_cluster: Any) -> str:
    """An image with python3 that the cluster has."""
    return "localhost/py:lab"


@pytest.fixture(scope="session")
def bed(kubernetes_cluster: Any, python_image: str) -> Iterator[Bed]:
    """A region for the whole session; tests use instances of their own."""
    with region(str(kubernetes_cluster.kubeconfig), python_image) as made:
        yield made
