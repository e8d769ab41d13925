"""Orchestrators of one process share connections; each call brings the token of its own instance."""

from __future__ import annotations

import contextlib

import pytest

from archelon_api import names, tokens
from occi_service import client
from sdk.runtime.clients import Clients
from sdk.runtime.reporting import ReportQueue
from sdk.testing.http_fakes import Bench


def test_queues_that_share_connections_send_each_its_own_token() -> None:
    clients = Clients()
    with Bench() as bench, contextlib.closing(clients):
        url = bench.environment["ARCHELON_SERVICE_MANAGER"]
        one, other = [ReportQueue(url, token, clients=clients) for token in (bench.start_token, "stranger")]
        with contextlib.closing(one):
            one.renew()
            with contextlib.closing(other), pytest.raises(client.UnauthorizedError):
                other.renew()
            # The end of one queue leaves the connections to the others.
            assert one.token(tokens.AUDIENCE_SERVICE_MANAGER)
            one.open()
            one.report("first", {names.GENERATION: 1}, lambda: None)
            assert bench.watch(lambda: len(bench.reports) == 1)
