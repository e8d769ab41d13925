"""Contract tests of name servers: an implementation subclasses `NamesContract` and provides a fixture `naming`."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pytest

import sdk
from sdk.dns import Dns, Record


class Naming(Protocol):
    """A name server, as instances and as resolvers see it."""

    #: A zone for the test's names.
    zone: str

    def of(self, instance: str) -> Dns:
        """Return the names of an instance."""

    def serves(self, name: str, kind: str, *expected: tuple[str, int]) -> None:
        """Assert that the name server serves exactly these data and ttls; a server may need a moment."""

    def lose(self, name: str, kind: str) -> None:
        """Remove a name's records at the server, without the SDK."""

    def revision(self, name: str, kind: str) -> Any:
        """Return a value that changes with every write of a name."""


class NamesContract:
    """The requirements on every implementation."""

    def test_a_name_is_set_changed_and_removed(self, naming: Naming) -> None:
        instance = str(uuid.uuid4())
        mine, zone = naming.of(instance), naming.zone
        assert mine.records(zone) == []
        mine.put(zone, "web", "a", "192.0.2.1")
        naming.serves("web", "A", ("192.0.2.1", 300))
        # The same record in another spelling changes nothing.
        before = naming.revision("web", "A")
        mine.put(zone.upper() + ".", "WEB", "A", "192.0.2.1")
        assert naming.revision("web", "A") == before
        mine.put(zone, "web", "A", "192.0.2.2", ttl=60)
        naming.serves("web", "A", ("192.0.2.2", 60))
        assert mine.records(zone) == [Record("web", "A", "192.0.2.2", 60, instance)]
        others = (
            ("web", "AAAA", "2001:DB8::0:1", "2001:db8::1"),
            ("www", "CNAME", f"web.{zone}.", f"web.{zone}."),
            ("@", "MX", f"10 web.{zone}.", f"10 web.{zone}."),
            ("_http._tcp", "SRV", f"0 5 80 web.{zone}.", f"0 5 80 web.{zone}."),
            ("@", "TXT", "two words", '"two words"'),
        )
        with ThreadPoolExecutor(len(others)) as pool:
            # In parallel, since name servers are slow.
            list(pool.map(lambda each: naming.of(instance).put(zone, *each[:3]), others))
        for name, kind, _, served in others:
            naming.serves(name, kind, (served, 300))
        mine.remove(zone, "web")
        assert {(each.name, each.type) for each in mine.records(zone)} == {each[:2] for each in others[1:]}
        for kind in ("A", "AAAA"):
            naming.serves("web", kind)
        # A removed record can be set again, and a lost one is restored.
        naming.lose("www", "CNAME")
        again = (("web", "A", "192.0.2.3"), ("www", "CNAME", f"web.{zone}."))
        with ThreadPoolExecutor(len(again)) as pool:
            list(pool.map(lambda each: naming.of(instance).put(zone, *each), again))
        for name, kind, value in again:
            naming.serves(name, kind, (value, 300))
        mine.dispose()
        assert mine.records(zone) == []
        for name, kind in (("web", "A"), *(each[:2] for each in others)):
            naming.serves(name, kind)

    def test_a_name_belongs_to_the_instance_that_set_it(self, naming: Naming) -> None:
        one, two = naming.of(str(uuid.uuid4())), naming.of(str(uuid.uuid4()))
        one.put(naming.zone, "shop", "A", "192.0.2.1")
        two.put(naming.zone, "other", "A", "192.0.2.2")
        with pytest.raises(sdk.Failure, match=r"(?i)the name .*shop.*belongs to another instance.*choose another"):
            two.put(naming.zone, "Shop", "A", "192.0.2.3")
        # A refused name is not removed with the instance's own.
        two.remove(naming.zone, "shop")
        two.dispose()
        naming.serves("other", "A")
        naming.serves("shop", "A", ("192.0.2.1", 300))
        one.dispose()

    @pytest.mark.parametrize(
        ("name", "kind", "value", "ttl", "result"),
        [
            ("a b", "A", "192.0.2.1", 300, "not a name below a zone"),
            ("a" * 64, "A", "192.0.2.1", 300, "not a name below a zone"),
            ("a", "BOOM", "192.0.2.1", 300, "not a type of record; expected one of A, AAAA, CNAME"),
            ("a", "A", "2001:db8::1", 300, "not an address; use one such as 192.0.2.1"),
            ("a", "AAAA", "192.0.2.1", 300, "not an address; use one such as 2001:db8::1"),
            ("a", "CNAME", "web.example.org", 300, "end it with a dot"),
            ("@", "CNAME", "web.example.org.", 300, "cannot be a CNAME"),
            ("a", "MX", "mail.example.org.", 300, "10 mail.example.org."),
            ("a", "SRV", "0 70000 1 a.example.org.", 300, "0 5 443 www.example.org."),
            ("a", "TXT", '"x" "y"', 300, "a TXT is one text"),
            ("a", "TXT", "x\n@ IN A 192.0.2.9", 300, "characters that a zone file does not permit"),
            ("a", "TXT", "x ; instance", 300, "characters that a zone file does not permit"),
            ("a", "A", "192.0.2.1", -1, "from 0 to 604800"),
            ("a", "A", "192.0.2.1", 604801, "from 0 to 604800"),
        ],
    )
    def test_an_invalid_record_is_refused_with_a_reason(
        self, naming: Naming, name: str, kind: str, value: str, ttl: int, result: str
    ) -> None:
        instance = naming.of(str(uuid.uuid4()))
        with pytest.raises(sdk.Failure) as refused:
            instance.put(naming.zone, name, kind, value, ttl=ttl)
        assert result in str(refused.value)
        assert instance.records(naming.zone) == []
