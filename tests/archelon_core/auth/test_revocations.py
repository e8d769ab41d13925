"""The contract of revocations, for the list in memory and the one in either database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from archelon_core import auth
from archelon_core.auth.sql_revocations import SqlRevocations, revocations
from archelon_core.database import Database
from occi_service.registry import schema
from tests.archelon_core.auth.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    schema.upgrade(made)
    yield made
    made.close()


class Contract:
    def test_revoking_a_token_affects_no_other(self, port: auth.Revocations, clock: FakeClock) -> None:
        assert not port.is_revoked("one", None)
        port.revoke_token("one", until=clock() + 60)
        assert port.is_revoked("one", None)
        assert port.is_revoked("one", "instance")
        assert not port.is_revoked("two", "instance")

    def test_revoking_an_instance_revokes_all_its_tokens(self, port: auth.Revocations, clock: FakeClock) -> None:
        port.revoke_instance("instance", until=clock() + 60)
        assert port.is_revoked("any", "instance")
        assert not port.is_revoked("any", None)
        assert not port.is_revoked("any", "other")
        # A token's name does not match an instance's.
        assert not port.is_revoked("instance", "any")

    def test_the_later_expiry_counts(self, port: auth.Revocations, clock: FakeClock) -> None:
        port.revoke_token("one", until=clock() + 60)
        port.revoke_token("one", until=clock() + 10)
        clock.advance(30)
        port.revoke_token("other", until=clock() + 60)
        assert port.is_revoked("one", None)
        clock.advance(31)
        port.revoke_token("third", until=clock() + 60)
        assert not port.is_revoked("one", None)


class TestInMemory(Contract):
    @pytest.fixture
    def port(self, clock: FakeClock) -> auth.Revocations:
        return auth.MemoryRevocations(clock)


class TestInADatabase(Contract):
    @pytest.fixture
    def port(self, database: Database, clock: FakeClock) -> auth.Revocations:
        return SqlRevocations(database, clock)

    def test_every_process_sees_it_at_once(self, database: Database, database_url: str, clock: FakeClock) -> None:
        other = Database(database_url)
        SqlRevocations(other, clock).revoke_token("one", until=clock() + 60)
        other.close()
        assert SqlRevocations(database, clock).is_revoked("one", None)

    def test_expired_revocations_are_removed(self, database: Database, clock: FakeClock) -> None:
        port = SqlRevocations(database, clock)
        for number in range(30):
            port.revoke_token(f"t{number}", until=clock() + 10)
            clock.advance(1)
        with database.read() as connection:
            kept = connection.scalar(sa.select(sa.func.count()).select_from(revocations))
        assert kept is not None
        assert kept <= 11

    def test_a_failing_database_refuses_every_token(self, database_url: str, clock: FakeClock) -> None:
        empty = Database(database_url)
        port = SqlRevocations(empty, clock)
        with pytest.raises(auth.ProviderDownError) as caught:
            port.is_revoked("one", None)
        assert "list of revocations" in caught.value.reason
        with pytest.raises(auth.ProviderDownError):
            port.revoke_token("one", until=clock() + 60)
        empty.close()


def test_the_migrated_table_matches_the_code(database: Database) -> None:
    assert schema.drift(database, [revocations]) == []
