"""DNS server for pods: `python3 cluster_dns.py STATE NAME BLOCK` serves on the node's address, port 53.

`<service>.<namespace>.svc.cluster.local` resolves to the Service's address or, if that is `None`, to those of its ready pods.
Each query calls the API, so nothing is cached. Other names do not exist, because the cluster has no route out.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kubernetes_testbed.api import Api
from kubernetes_testbed.layout import Layout

_ZONE = ("svc", "cluster", "local")
_A, _INTERNET = 1, 1
_NO_ERROR, _NO_SUCH_NAME, _REFUSED = 0, 3, 5
_TTL = 2


def respond(query: bytes, api: Api) -> bytes | None:
    """Return the response to a query, or None if it is not a query."""
    try:
        query_id, flags, questions = struct.unpack(">HHH", query[:6])
        if flags & 0x8000 or questions != 1:
            return None
        labels, end = _name(query, 12)
        kind, internet = struct.unpack(">HH", query[end : end + 4])
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    question = query[12 : end + 4]
    found = _addresses(labels, api)
    code = _REFUSED if internet != _INTERNET else _NO_SUCH_NAME if found is None else _NO_ERROR
    records = b"".join(
        # A pointer to the name in the question, at offset 12.
        b"\xc0\x0c" + struct.pack(">HHIH", _A, _INTERNET, _TTL, 4) + socket.inet_aton(each)
        for each in (found or [] if kind == _A else [])
    )
    head = struct.pack(">HHHHHH", query_id, 0x8400 | (flags & 0x0100) | code, 1, len(records) // 16, 0, 0)
    return head + question + records


def _name(query: bytes, at: int) -> tuple[list[str], int]:
    labels = []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return labels, at + 1


def _addresses(labels: list[str], api: Api) -> list[str] | None:
    if len(labels) != 5 or tuple(labels[2:]) != _ZONE:
        return None
    service, namespace = labels[:2]
    found = api.get(f"/api/v1/namespaces/{namespace}/services/{service}")
    if not isinstance(found, dict):
        return None
    address = found["spec"].get("clusterIP", "")
    if address and address != "None":
        return [address]
    endpoints = api.get(f"/api/v1/namespaces/{namespace}/endpoints/{service}")
    subsets = (endpoints.get("subsets") or []) if isinstance(endpoints, dict) else []
    return [each["ip"] for subset in subsets for each in subset.get("addresses") or []]


def is_ready(layout: Layout) -> bool:
    """Whether the server resolves the API's own Service."""
    labels = ("kubernetes", "default", *_ZONE)
    name = b"".join(bytes((len(each),)) + each.encode() for each in labels) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        try:
            client.connect((layout.node_address, 53))
            client.send(struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + name + struct.pack(">HH", _A, _INTERNET))
            return socket.inet_aton(layout.first_service) in client.recv(512)
        except OSError:
            return False


class _Server(socketserver.ThreadingUDPServer):
    daemon_threads = True


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    state, name, block = arguments
    layout = Layout(name=name, block=block, state=Path(state))
    api = Api(layout)

    class Question(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            response = respond(self.request[0], api)
            if response is not None:
                self.request[1].sendto(response, self.client_address)

    with _Server((layout.node_address, 53), Question) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
