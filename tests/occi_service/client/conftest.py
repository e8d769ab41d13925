"""A real service under gunicorn, and clients of it in every rendering."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from occi_service import client

RENDERINGS: tuple[client.MediaType, ...] = ("application/occi+json", "text/plain", "text/occi", "text/uri-list")


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a service that runs for all tests of this directory."""
    errors = tmp_path_factory.mktemp("service") / "errors.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, errors.open("wb") as log:
        # gunicorn sets this on its listener, but a client may connect before gunicorn has started.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = listener.fileno()
        root = Path(__file__).parents[3]
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{number}", "--threads", "8", "--workers", "1"),
                *("--keep-alive", "30", "--no-control-socket", "tests.occi_service.client.service:application"),
            ],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"},
            pass_fds=[number],
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(params=RENDERINGS)
def rendering(request: pytest.FixtureRequest) -> client.MediaType:
    """Parametrizes over the renderings."""
    chosen: client.MediaType = request.param
    return chosen


@pytest.fixture
def occi(service_url: str, rendering: client.MediaType) -> Iterator[client.Client]:
    """A client in each rendering, of a service without entities."""
    with client.Client(service_url, rendering=rendering) as made:
        for collection in ("/network/interface/", "/compute/", "/network/", "/thing/"):
            made.delete_all(collection)
        yield made
