"""A question to a name server over UDP (RFC 1035, section 4), as a resolver asks it; as much of it as tests need."""

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
    """The data of the records of a name and type, as a zone file has them, with their ttl; none where there are none.

    Args:
        name: whole, with the dot at its end.

    Raises:
        AssertionError: the server refuses to answer, or answers something else.
        TimeoutError: it does not answer.
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
    # NXDOMAIN is an answer too.
    assert flags & 0xF in (0, 3), f"status {flags & 0xF}"
    place = _HEADER.size + len(question)
    found = []
    for _ in range(count):
        _, place = _name(answer, place)
        code, _, ttl, length = _RECORD.unpack_from(answer, place)
        place += _RECORD.size
        if code == _TYPES[kind]:
            found.append((_data(answer, place, length, kind), ttl))
        place += length
    return found


def _name(message: bytes, place: int) -> tuple[str, int]:
    """A name at a place, and the place after it."""
    labels = []
    after = 0
    while (size := message[place]) != 0:
        if size & 0xC0:
            # The rest stands elsewhere.
            after = after or place + 2
            place = int.from_bytes(message[place : place + 2], "big") & 0x3FFF
            continue
        labels.append(message[place + 1 : place + 1 + size].decode())
        place += 1 + size
    return ".".join(labels) + ".", after or place + 1


def _data(message: bytes, place: int, length: int, kind: str) -> str:
    raw = message[place : place + length]
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(raw))
    if kind == "TXT":
        return '"' + raw[1 : 1 + raw[0]].decode() + '"'
    numbers = {"CNAME": 0, "MX": 1, "SRV": 3}[kind]
    words = struct.unpack_from(f">{numbers}H", raw)
    return " ".join([*(str(each) for each in words), _name(message, place + 2 * numbers)[0]])
