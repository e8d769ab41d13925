"""A minimal DNS query over UDP (RFC 1035, section 4)."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct

_TYPES = {"A": 1, "CNAME": 5, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}
_INTERNET = 1
_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")


def ask(server: tuple[str, int], name: str, kind: str, *, seconds: float = 10.0) -> list[tuple[str, int]]:
    """Return data (as in a zone file) and TTL of the records of a name and type.

    Args:
        name: full name, with the dot at its end.

    Raises:
        AssertionError: the server refuses the query, or its response does not match.
        TimeoutError: it does not respond.
    """
    number = secrets.randbits(16)
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.rstrip(".").split("."))
    question = labels + b"\0" + struct.pack(">HH", _TYPES[kind], _INTERNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect(server)
        sock.send(_HEADER.pack(number, 0, 1, 0, 0, 0) + question)
        answer = sock.recv(4096)
    got, flags, _, count, _, _ = _HEADER.unpack_from(answer)
    assert got == number
    assert answer[_HEADER.size : _HEADER.size + len(question)].lower() == question.lower()
    # NXDOMAIN is valid too.
    assert flags & 0xF in (0, 3), f"status {flags & 0xF}"
    offset = _HEADER.size + len(question)
    found = []
    for _ in range(count):
        _, offset = _name(answer, offset)
        code, _, ttl, length = _RECORD.unpack_from(answer, offset)
        offset += _RECORD.size
        if code == _TYPES[kind]:
            found.append((_data(answer, offset, length, kind), ttl))
        offset += length
    return found


def _name(message: bytes, offset: int) -> tuple[str, int]:
    """Return the name at an offset, and the offset after it."""
    labels = []
    after = 0
    while (size := message[offset]) != 0:
        if size & 0xC0:
            # A compression pointer to the rest.
            after = after or offset + 2
            offset = int.from_bytes(message[offset : offset + 2], "big") & 0x3FFF
            continue
        labels.append(message[offset + 1 : offset + 1 + size].decode())
        offset += 1 + size
    return ".".join(labels) + ".", after or offset + 1


def _data(message: bytes, offset: int, length: int, kind: str) -> str:
    raw = message[offset : offset + length]
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(raw))
    if kind == "TXT":
        return '"' + raw[1 : 1 + raw[0]].decode() + '"'
    numbers = {"CNAME": 0, "MX": 1, "SRV": 3}[kind]
    values = struct.unpack_from(f">{numbers}H", raw)
    return " ".join([*map(str, values), _name(message, offset + 2 * numbers)[0]])
