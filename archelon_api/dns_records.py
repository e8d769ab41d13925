"""Validation of DNS records, and their canonical form, so that the same record is the same text everywhere.

The SDK checks an orchestrator's records before it sends them, the cloud controller all that it receives. A name in a record's
data is absolute, with a trailing dot: without one a zone file treats it as relative to the zone, and Designate refuses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

#: RFC 1035, 2.3.4, with the leading underscore of SRV and TXT names.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
#: Characters without special meaning in a line of a zone file: no semicolon, which begins a comment.
_PRINTABLE: Final = re.compile(r"[\x20-\x3a\x3c-\x7e]{1,255}")
#: One character string of TXT: quotes and backslashes inside are escaped.
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\["\\])*"')
#: A week, in seconds.
LONGEST_TTL: Final = 604800
_SHOWN: Final = 80


class DnsRecordError(ValueError):
    """The DNS record is invalid; the text contains the reason and the remedy.

    Attributes:
        part: the invalid part: `zone`, `name`, `type`, `value` or `ttl`.
    """

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A record in its canonical form.

    Attributes:
        zone: a domain, in lower case, without the trailing dot.
        name: below the zone, in lower case; `@` for the zone itself.
        type: such as `A`. value: its data. ttl: seconds.
    """

    zone: str
    name: str
    type: str
    value: str
    ttl: int

    @property
    def full_name(self) -> str:
        """The absolute name, with the trailing dot."""
        return f"{self.zone}." if self.name == "@" else f"{self.name}.{self.zone}."


def zone_of(text: str) -> str:
    """Return the canonical form of a zone's name. Raises DnsRecordError."""
    plain = text.removesuffix(".").lower()
    if _NAME.fullmatch(plain) is None:
        raise DnsRecordError("zone", f"{text[:_SHOWN]!r} is not a zone; use a domain such as example.org")
    return plain


def checked(zone: str, name: str, type: str, value: str, *, ttl: int) -> DnsRecord:  # noqa: A002 - DNS's word
    """Return the canonical form of a record. Raises DnsRecordError."""
    zone, kind = zone_of(zone), type.upper()
    if name != "@" and _NAME.fullmatch(name) is None:
        raise DnsRecordError("name", f"{name[:_SHOWN]!r} is not a name below a zone; use letters, digits, - and .")
    if len(name) + len(zone) > 252:
        raise DnsRecordError("name", f"{name[:_SHOWN]}.{zone[:_SHOWN]} is longer than the permitted 253 characters")
    read = _DATA.get(kind)
    if read is None:
        raise DnsRecordError("type", f"{type[:20]!r} is not a type of record; expected one of {', '.join(TYPES)}")
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 <= ttl <= LONGEST_TTL:
        raise DnsRecordError(
            "ttl",
            f"a ttl must be a whole number of seconds from 0 to {LONGEST_TTL}; {name[:_SHOWN]} has {str(ttl)[:20]}",
        )
    if kind == "CNAME" and name == "@":
        raise DnsRecordError("name", "a zone itself cannot be a CNAME; set an address (A, AAAA) there")
    if _PRINTABLE.fullmatch(value) is None:
        raise DnsRecordError(
            "value", f"the value of {name[:_SHOWN]} has characters that a zone file does not permit, or more than 255"
        )
    return DnsRecord(zone, name.lower(), kind, read(value.strip()), ttl)


def _address(version: Callable[[str], object], example: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        try:
            return str(version(value))
        except ValueError:
            raise DnsRecordError("value", f"{value[:_SHOWN]!r} is not an address; use one such as {example}") from None

    return read


def _host(value: str) -> str:
    if not value.endswith(".") or _NAME.fullmatch(value[:-1]) is None:
        raise DnsRecordError(
            "value", f"{value[:_SHOWN]!r} is not an absolute name; end it with a dot, such as www.example.org."
        )
    return value.lower()


def _numbers_and_host(count: int, example: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        *numbers, host = value.split()
        if len(numbers) != count or not all(_is_small(each) for each in numbers):
            raise DnsRecordError(
                "value", f"{value[:_SHOWN]!r} is not {count} numbers up to 65535 and a name, such as {example}"
            )
        return " ".join([*(str(int(each)) for each in numbers), _host(host)])

    return read


def _is_small(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) < 65536


def _text(value: str) -> str:
    if not value.startswith('"'):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        value = f'"{escaped}"'
    if _QUOTED.fullmatch(value) is None:
        raise DnsRecordError("value", 'a TXT is one text; omit the quotes, or write "…" with \\" for a quote in it')
    return value


_DATA: Final[Mapping[str, Callable[[str], str]]] = {
    "A": _address(ipaddress.IPv4Address, "192.0.2.1"),
    "AAAA": _address(ipaddress.IPv6Address, "2001:db8::1"),
    "CNAME": _host,
    "MX": _numbers_and_host(1, "10 mail.example.org."),
    "SRV": _numbers_and_host(3, "0 5 443 www.example.org."),
    "TXT": _text,
}
#: Types of records that can be set.
TYPES: Final = tuple(_DATA)
