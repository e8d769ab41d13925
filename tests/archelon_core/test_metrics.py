"""Metrics: labels from fixed lists whatever a tenant sends, and values in memory for a single process."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import metrics


def series(registry: prometheus_client.CollectorRegistry) -> set[tuple[str, str, str]]:
    found = set()
    for family in registry.collect():
        for sample in family.samples:
            found.add((sample.labels["method"], sample.labels["status"], sample.labels["route"]))
    return found


@given(st.lists(st.tuples(st.text(), st.integers(), st.text()), max_size=20))
def test_labels_come_from_fixed_lists(requests: list[tuple[str, int, str]]) -> None:
    registry = prometheus_client.CollectorRegistry()
    measured = metrics.RequestMetrics(registry)
    for method, status, route in requests:
        measured.observe(method, status, route=route, seconds=0.1)
    allowed = {"1xx", "2xx", "3xx", "4xx", "5xx", "other"}
    assert all(
        method == "other" and status in allowed and route in metrics.ROUTES
        for method, status, route in series(registry)
    )


def test_a_request_is_counted_in_its_bucket() -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics.RequestMetrics(registry).observe("GET", 204, route="entity", seconds=0.02)
    text = metrics.render(registry).decode()
    labels = 'method="GET",route="entity",status="2xx"'
    assert f'archelon_request_seconds_bucket{{le="0.01",{labels}}} 0.0' in text
    assert f'archelon_request_seconds_bucket{{le="0.025",{labels}}} 1.0' in text
    assert f"archelon_request_seconds_sum{{{labels}}} 0.02" in text
