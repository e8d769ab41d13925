"""The same request several times at once: one creates the object, and none gets a server error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..deploy.test_module import put_application, put_bundle, put_stack
from ..system import System, new_instance


@pytest.fixture
def system(tmp_path: Path, database_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", database_url)
    yield made
    made.clear()


def test_concurrent_identical_puts(system: System) -> None:
    with ThreadPoolExecutor(8) as pool:
        bundles = [each.status_code for each in pool.map(lambda _: put_bundle(system), range(8))]
        assert sorted(set(bundles)) in ([200, 201], [201])
        for put in (put_application, put_stack):
            for _ in range(5):
                instance = new_instance()
                answers = [each.status_code for each in pool.map(lambda _: put(system, instance), range(8))]  # noqa: B023
                assert set(answers) <= {200, 201, 409}, answers
                assert answers.count(201) == 1


def test_two_tenants_race_for_a_path(system: System) -> None:
    """Ids of instances are unique, but a caller may send any."""
    tenants = [system.service_token(tenant=tenant) for tenant in ("one", "other")]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            instance = new_instance()
            answers = list(pool.map(lambda token: put_stack(system, instance, token=token), tenants * 4))  # noqa: B023
            assert {each.status_code for each in answers} <= {200, 201, 409}, [each.text for each in answers]
            assert [each.status_code for each in answers].count(201) == 1
