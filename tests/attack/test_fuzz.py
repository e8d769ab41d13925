"""Ten thousand nearly correct requests, half over each database; `make fuzz` sends a million, `make test` fewer."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.tables import Tables

from .fuzz_installations import Installations
from .fuzzing import Fuzzer

_REQUESTS = int(os.environ.get("ARCHELON_TEST_FUZZ", "10000"))
_SEED = int(os.environ.get("ARCHELON_TEST_SEED", secrets.randbelow(2**32)))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_no_request_causes_a_server_error(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, tables: Tables
) -> None:
    url = None if kind == "sqlite" else request.getfixturevalue("postgres_server")
    installations = Installations(tmp_path, url)
    fuzzer = Fuzzer(_SEED, installations)
    try:
        fuzzer.run(0, _REQUESTS // 2)
    finally:
        installations.close()
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(fuzzer.statuses.items()))
    tables.add(f"Fuzzed over {kind}, seed {_SEED}: {statuses}")
    assert not fuzzer.failures, "\n".join([f"{len(fuzzer.failures)} failures", *fuzzer.failures[:20]])
    # Enough requests have to succeed for the run to prove anything.
    assert fuzzer.statuses[200] + fuzzer.statuses[201] > _REQUESTS // 40
