"""A fuzzer of every service: it mutates valid requests, and checks every response.

Each request derives from the seed and its number. It uses a seeded `random.Random` and this grammar, not hypothesis (whose
shrinking and database cost more per example than a request, and which cannot continue a run at request N) nor schemathesis
(which needs an OpenAPI document). Requests run in rounds, each over its own databases, so `make fuzz FUZZ_ARGS="--seed S --start
N"` reproduces a failure by restarting its round.

Every response is checked: no 5xx except 501, or 503 if another service is unavailable; valid header fields and a parseable body
in the requested rendering; no secret attribute's value in an error or a log line; no unexpected exception; and the service
remains healthy afterwards.
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import json
import logging
import os
import random
import secrets
import signal
import sys
import tempfile
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from archelon_core import logs, redaction
from bundles.archives import PackedFile, digest_of, pack_files
from occi_service.renderings import ActionDocument, EntityDocument, Message, TextOcci, TextPlain
from occi_service.renderings.json import Json
from tests.descriptions import description
from tests.occi_service.server.calls import Answer, environ_of, serve
from tests.postgres import PostgresServer

from .fuzz_installations import MARKER, Installations, Request, Target

#: Requests per pair of databases.
ROUND: Final = 2500

_WHOLE: Final = (0, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**20, 10**37, 10**40)
_TEXTS: Final = (
    "", "\0", "a\0b", "\ud800", "\udfff\ud800", "é", "\u202e", "𐀀", "\r\nX: y", "..", "/", "//", "a" * 37, "a" * 65,
    "a" * 256, "a" * 513, "a" * 5000, "é" * 300, "a" * 70_000, "http://a/b#c", "urn:uuid:x", "%00", "%ff", "{{7*7}}", "${x}",
    "NaN", "1e400", "true", "-", "12", '"', "\\", "null", "2026-13-45T99:99:99Z", "deploy", "infrastructure", "hot", "manifest",
    "a: &a [*a]", "nodes: [{name: x}]", "- " * 500, "[" * 2000, '{"a":' * 500,
)  # fmt: skip
_OTHERS: Final = (None, True, False, [], {}, [[]], [None], {"a": 1}, [{}], {"kind": []}, 1.5, -0.0, 1e308, 5e-324)
#: Replacements for a secret's value.
_SECRETS: Final = (
    MARKER, [MARKER], {"a": MARKER}, {"a": [MARKER]}, {"a": {"b": MARKER}}, f"{MARKER}::{MARKER}", f"A={MARKER}::{MARKER}\0",
    MARKER + "\0", MARKER * 5000, f'"{MARKER}', f"{{{MARKER}", f'{{"a":"{MARKER}"', {"command": MARKER, "environment": MARKER},
    {"command": [MARKER, 1], "environment": {"1x": MARKER}, "files": {"../x": MARKER}, "timeout": MARKER},
)  # fmt: skip
#: Written into JSON text unquoted.
_RAW: Final = (
    "1e400",
    "NaN",
    "-Infinity",
    "Infinity",
    "9" * 5000,
    "0" * 50,
    "1e99999999",
    "-",
    "'a'",
    "tru",
    "01",
    "+1",
    "\x00",
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "FOO", "")
_TYPES: Final = (
    "application/occi+json", "application/json", "text/plain", "text/occi", "text/uri-list", "text/html", "text/occi+plain",
    "application/json; charset=utf-16", "text/plain; charset=latin-1", "application/gzip", "application/octet-stream", "", ";",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a/b/c", "text/plain; charset=\"", "\xff",
)  # fmt: skip
_ACCEPTS: Final = (
    *_TYPES,
    "*/*",
    "text/*",
    "application/occi+json;q=0.1, text/plain",
    "text/plain;q=x",
    "a" * 2000,
    "*",
)
_SEGMENTS: Final = (
    "", ".", "..", "\0", "a\0", "\xff", "é", "-", "demo", "x" * 300, "x" * 3000, "%00", "*", "published", "bundle", "operator",
    "hurtle", "a b", "0" * 64, "logs", "?", "#", "stack", "\ud800",
)  # fmt: skip
_PARAMETERS: Final = (
    "action", "page", "number", "since", "state", "service", "tenant", "after", "number", "x", "", "a\0", "\xff",
)  # fmt: skip
_VALUES: Final = (
    "", "1", "0", "-1", "9" * 30, "9" * 5000, "%00", "%FF%FE", "%ED%A0%80", "stop", "deploy", "renew", "report", "%", "a%0D%0Ab",
    "x" * 1000, "true", "1e9", "%F0%9F%98%80", "query", "scale",
)  # fmt: skip
_FIELDS: Final = (
    "Category", "Link", "X-OCCI-Attribute", "X-OCCI-Location", "If-Match", "If-None-Match", "Host", "User-Agent",
    "X-Tenant-Name", "X-Request-Id", "X-Subject-Token", "X-Service-Token", "Transfer-Encoding", "Content-Length", "Cookie",
    "Authorization", "Range", "Expect", "X-Forwarded-For", "Origin",
)  # fmt: skip
_FIELD_VALUES: Final = (
    "", "*", '"x"', "a", "\xff\xfe", "a" * 4000, "OCCI/9.9", "OCCI/1.2", "Bearer x", "Basic eDp5", "-1", "10", "99999999999",
    "chunked", "1 1", "bytes=0-", "acme", 'demo; scheme="http://schemas.example.org/occi/sm#"; class="kind"', 'a="b', "a=b, c",
    "demo.size=3", "demo.size=" + "9" * 40, 'demo.password="x\\ud800"', "</demo/x>; rel=\"a\"", "/demo/x", ", , ,", "a;b;c=",
    "a=1e400",
    'org.archelon.instance="\\u0000"', "occi.core.id=x", 'occi.core.title="\\u0000"',
)  # fmt: skip
#: Loggers of an orchestrator's own code, whose failures are not server errors.
_ORCHESTRATORS: Final = ("archelon.sdk", "archelon.orchestrator")
_TEMPLATE: Final = description().encode()
#: Texts of permitted 503s: draining, an event in progress, and services that are unavailable in this process.
_MAY_BE_AWAY: Final = ("takes no orders for now", "redeliver it until", "design", "identity service")


class Fuzzer:
    """One run.

    Args:
        seed: from which all requests derive.
        installations: creates the targets.
    """

    def __init__(self, seed: int, installations: Installations) -> None:
        self.seed = seed
        self.statuses: collections.Counter[int] = collections.Counter()
        self.failures: list[str] = []
        self._installations = installations
        self._log = _Log()

    def run(self, start: int, requests: int, progress: Callable[[int], None] = lambda _number: None) -> None:
        """Send requests `start` to `start + requests`, and record failures."""
        root = logging.getLogger()
        root.addHandler(self._log)
        try:
            for first in range(start - start % ROUND, start + requests, ROUND):
                with self._installations.targets() as targets:
                    for number in range(first, min(first + ROUND, start + requests)):
                        self._one(number, targets)
                        progress(number)
                    self._check_healthy(targets, first)
        finally:
            root.removeHandler(self._log)

    def _one(self, number: int, targets: list[Target]) -> None:
        chance = random.Random(f"{self.seed}:{number}")
        target = chance.choices(targets, [each.weight for each in targets])[0]
        # Documents have the most places to mutate.
        weights = [1 if each.document is None else 4 for each in target.requests]
        request = chance.choices(target.requests, weights)[0]
        environ = Mutation(chance, target).environ(request)
        sent = {name: value for name, value in environ.items() if not name.startswith("wsgi")}
        body = environ["wsgi.input"].getvalue()
        self._log.lines.clear()
        try:
            answer = serve(target.application, environ)
            wrong = list(_wrong_with(answer, sent))
        except Exception:
            wrong = [f"raised {traceback.format_exc()[-1500:]}"]
        else:
            self.statuses[answer.status] += 1
            if answer.status == 200:
                target.reset(request)
        wrong += self._log.wrong()
        if wrong:
            shown = {
                name: value
                for name, value in sent.items()
                if value and "TOKEN" not in name and name != "HTTP_AUTHORIZATION"
            }
            self.failures.append(
                f"--seed {self.seed} --start {number} ({target.name}): {wrong}\n  {shown}\n  {body[:600]!r}"
            )

    def _check_healthy(self, targets: list[Target], first: int) -> None:
        for target in targets:
            answer = serve(target.application, environ_of("GET", "/healthz"))
            if answer.status != 200:
                self.failures.append(f"round of request {first}: {target.name} is not healthy: {answer.status}")


class _Log(logging.Handler):
    """Collects the formatted log lines of one request."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[logging.LogRecord, str]] = []
        self.setFormatter(logs.JsonFormatter(redaction.Redactor()))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record, self.format(record)))

    def wrong(self) -> list[str]:
        found = []
        for record, line in self.lines:
            if MARKER in line:
                found.append(f"a secret in a log line: {line[:1500]}")
            ours = not record.name.startswith(_ORCHESTRATORS)
            if ours and (record.levelno >= logging.ERROR or record.exc_info):
                found.append(
                    f"in the log: {json.loads(line)['message']} {json.loads(line).get('exception', '')[-1500:]}"
                )
        return found


def _wrong_with(answer: Answer, sent: dict[str, Any]) -> Iterator[str]:
    headers = answer.headers
    text = answer.body.decode("utf-8", "replace")
    if answer.status >= 500 and answer.status != 501:
        away = answer.status == 503 and any(each in text + str(headers) for each in _MAY_BE_AWAY)
        head = sent["REQUEST_METHOD"] == "HEAD"
        if not ("retry-after" in headers and (away or head)):
            yield f"responded with {answer.status}: {text[:300]}"
    if answer.status >= 400 and (MARKER in text or MARKER in str(answer.fields)):
        yield f"a secret in an error: {text[:300]}"
    media_type = headers.get("content-type", "").partition(";")[0]
    try:
        if answer.body and "json" in media_type:
            json.loads(answer.body)
        elif media_type.startswith("text/"):
            answer.body.decode()
        if media_type == "text/plain" and answer.status == 200 and text.startswith("Category:"):
            TextPlain().read(Message({}, answer.body))
    except ValueError as error:
        yield f"the body is not valid {media_type}: {error}"
    if sent["REQUEST_METHOD"] == "HEAD" and answer.body:
        yield "the response to a HEAD has a body"
    if answer.body and "content-type" not in headers:
        yield "the response has a body, but no Content-Type"


class Mutation:
    """Mutates one valid request."""

    def __init__(self, chance: random.Random, target: Target) -> None:
        self._chance = chance
        self._target = target

    def environ(self, request: Request) -> dict[str, Any]:
        """Return the WSGI environ: one in eight requests unchanged, the others changed in one to three places."""
        chance = self._chance
        places = [] if chance.random() < 0.125 else chance.choices(
            ("document", "bytes", "path", "query", "headers", "type", "method", "accept", "token"),
            (20, 3, 2, 3, 3, 1, 1, 1, 1),
            k=chance.choice((1, 1, 1, 2, 3)),
        )  # fmt: skip
        headers = dict(request.headers)
        headers["Accept"] = chance.choice(_ACCEPTS if "accept" in places else ("application/occi+json", "text/plain"))
        token = request.token if chance.random() < 0.8 else chance.choice(self._target.tokens)
        if "token" in places:
            token = chance.choice(("", "x", MARKER, "a b", "\xff"))
        headers[chance.choice(("X-Auth-Token", "Authorization"))] = token
        if "Authorization" in headers and token:
            headers["Authorization"] = f"Bearer {token}"
        if request.bundle:
            request = self._packed(request, places)
        body, kind = self._body(request, headers, places)
        if "bytes" in places:
            body = self._bytes(body)
        method = chance.choice(_METHODS) if "method" in places else request.method
        path = self._path(request.path) if "path" in places else request.path
        query = self._query(request.query) if "query" in places else request.query
        headers["Content-Type"] = chance.choice(_TYPES) if "type" in places else kind
        environ = environ_of(method, "/", headers, body, query=query)
        # WSGI servers pass bytes as latin-1.
        raw = path.encode("utf-8", "surrogatepass") if chance.random() < 0.8 else path.encode("latin-1", "replace")
        environ["PATH_INFO"] = self._target.mount + raw.decode("latin-1")
        # Varying addresses avoid the rate limit per address.
        environ["REMOTE_ADDR"] = f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}"
        if "headers" in places:
            self._headers(environ)
        return environ

    # the body ---------------------------------------------------------------------------------------------------------

    def _body(self, request: Request, headers: dict[str, str], places: list[str]) -> tuple[bytes, str]:
        if request.document is None:
            return request.body, request.kind if request.body else ""
        document = json.loads(json.dumps(request.document))
        raw: list[str] = []
        if "document" in places:
            for _ in range(self._chance.choice((1, 1, 1, 2, 4))):
                document = self._changed(document, raw)
        if self._chance.random() < 0.25 and isinstance(document, dict):
            as_text = self._as_text(document, headers)
            if as_text is not None:
                return as_text
        text = json.dumps(document, ensure_ascii=self._chance.random() < 0.8)
        for each in raw:
            text = text.replace('"raw value"', each, 1)
        if "document" in places and self._chance.random() < 0.1:
            text = text.replace("{", '{"kind":1,"kind":2,', 1) if self._chance.random() < 0.5 else text + text
        return text.encode("utf-8", "surrogatepass"), request.kind

    def _packed(self, request: Request, places: list[str]) -> Request:
        """Return a bundle with a changed manifest, under its own digest."""
        raw: list[str] = []
        manifest = copy.deepcopy(request.document)
        if "document" in places:
            manifest = self._changed(manifest, raw)
        text = json.dumps(manifest).encode("utf-8", "surrogatepass")
        for each in raw:
            text = text.replace(b'"raw value"', each.encode(), 1)
        template = self._chance.choice(_TEXTS).encode("utf-8", "surrogatepass") if "bytes" in places else _TEMPLATE
        files = {"manifest.json": PackedFile(text), "deployment.yaml": PackedFile(template)}
        archive = pack_files(files)
        return dataclasses.replace(request, path=request.path + digest_of(archive), document=None, body=archive)

    def _changed(self, document: Any, raw: list[str]) -> Any:
        """Return the document with one node replaced, removed, renamed, or moved into another."""
        places = list(_nodes(document))
        numbers = [place for place in places if isinstance(place[0][place[1]], int)]
        if numbers and self._chance.random() < 0.2:
            places = numbers
        holder, key = self._chance.choice(places) if places else (None, None)
        if holder is None:
            return self._evil(raw)
        evil = self._evil(raw)
        if isinstance(holder[key], int) and self._chance.random() < 0.6:
            # Replace numbers mostly by numbers.
            evil = self._chance.choice(_WHOLE)
        if MARKER in json.dumps(holder[key]) and self._chance.random() < 0.5:
            # Errors about a secret must not contain it.
            holder[key] = copy.deepcopy(self._chance.choice(_SECRETS))
            return document
        if self._chance.random() < 0.1:
            del holder[key]
        elif isinstance(holder, dict) and self._chance.random() < 0.15:
            holder[
                self._chance.choice(
                    [*_TEXTS[:12], "links", "kind", "id", "actions", "source", "target", "org.archelon.x"]
                )
            ] = evil
        else:
            holder[key] = evil
        return document

    def _evil(self, raw: list[str]) -> Any:
        choice = self._chance.randrange(10)
        if choice < 3:
            return self._chance.choice(_TEXTS)
        if choice < 6:
            return self._chance.choice(_WHOLE)
        if choice == 6:
            raw.append(self._chance.choice(_RAW))
            return "raw value"
        if choice == 7:
            raw.append(_nested(self._chance.choice((10, 63, 64, 65, 100, 2000, 20_000)), self._chance))
            return "raw value"
        if choice == 8:
            text = self._chance.choice(_TEXTS)
            return [text] * (1001 if len(text) < 100 and self._chance.random() < 0.3 else 3)
        return copy.deepcopy(self._chance.choice(_OTHERS))

    def _as_text(self, document: dict[str, Any], headers: dict[str, str]) -> tuple[bytes, str] | None:
        """Return the document in a text rendering; None if it has no such form."""
        rendering = self._chance.choice((TextPlain(), TextOcci()))
        message = Message({}, json.dumps(document).encode("utf-8", "surrogatepass"))
        try:
            read: ActionDocument | EntityDocument
            if "action" in document:
                read = Json().read_action(message)
                payload = rendering.write_action(read)
            else:
                read = Json().read_entity(message)
                payload = rendering.write_entity(read)
        except ValueError:
            return None
        headers.update(payload.headers)
        return payload.body, rendering.mime_type

    def _bytes(self, body: bytes) -> bytes:
        chance = self._chance
        at = chance.randrange(len(body) + 1)
        return chance.choice(
            (
                lambda: body[:at],
                lambda: body[:at] + bytes([chance.randrange(256)]) + body[at:],
                lambda: body[:at] + b"\xff\xfe\x00" + body[at + 1 :],
                lambda: b"\xef\xbb\xbf" + body,
                lambda: body.decode("utf-8", "replace").encode("utf-16"),
                lambda: b"",
                lambda: body + body,
                lambda: chance.randbytes(50),
                lambda: (
                    body[:at]
                    + chance.choice((b'"', b"{", b"[", b"\\", b"\n", b"\xed\xa0\x80", b"\\ud800", b"\\u0000"))
                    + body[at:]
                ),
                lambda: b"X-OCCI-Attribute: " + chance.choice(_FIELD_VALUES).encode("latin-1"),
            )
        )()

    # the head ---------------------------------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        parts = path.split("/")
        at = self._chance.randrange(1, len(parts) + 1)
        new = self._chance.choice(_SEGMENTS)
        if self._chance.random() < 0.3:
            return "/".join([*parts[:at], new, *parts[at:]])
        parts[at - 1 if at == len(parts) else at] = new
        return "/".join(parts) if self._chance.random() < 0.95 else path[1:]

    def _query(self, query: str) -> str:
        parts = [each for each in query.split("&") if each and self._chance.random() < 0.5]
        for _ in range(self._chance.choice((1, 1, 2, 50))):
            name = urllib.parse.quote(self._chance.choice(_PARAMETERS), errors="surrogatepass")
            parts.append(f"{name}={self._chance.choice(_VALUES)}")
        return "&".join(parts)

    def _headers(self, environ: dict[str, Any]) -> None:
        for _ in range(self._chance.choice((1, 1, 2, 5))):
            name = self._chance.choice(_FIELDS).upper().replace("-", "_")
            value = self._chance.choice((*_FIELD_VALUES, "x" * self._chance.randrange(9000)))
            environ[name if name == "CONTENT_LENGTH" else f"HTTP_{name}"] = value
        if environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
            environ.pop("CONTENT_LENGTH", None)
            environ["wsgi.input_terminated"] = True


def _nodes(document: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over a document's nodes: the container, and the key or index in it."""
    if isinstance(document, dict | list):
        items: Any = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in list(items):
            yield document, key
            yield from _nodes(value)


def _nested(depth: int, chance: random.Random) -> str:
    start, end = chance.choice((("[", "]"), ('{"a":', "}")))
    return start * depth + "1" + end * depth


def main(arguments: list[str] | None = None) -> int:
    """`python -m tests.attack.fuzzing`, which `make fuzz` runs."""
    parser = argparse.ArgumentParser(description="Send nearly correct requests to every service.")
    parser.add_argument("--requests", type=int, default=int(os.environ.get("FUZZ_REQUESTS", "1000000")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FUZZ_SEED", secrets.randbelow(2**32))))
    parser.add_argument("--start", type=int, default=0, help="number of the request to continue at")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}, {given.requests} requests from {given.start} on", flush=True)
    logging.getLogger().setLevel(logging.INFO)
    logging.lastResort = None
    # On SIGTERM too, stop the PostgreSQL server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = 0
    kinds = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    for kind in kinds:
        failed += _run(kind, given.seed, given.start, given.requests // len(kinds))
    return 1 if failed else 0


def _run(kind: str, seed: int, start: int, requests: int) -> int:
    programs = PostgresServer.programs()
    with tempfile.TemporaryDirectory(prefix="archelon-fuzz-") as name:
        directory = Path(name)
        if kind == "postgresql":
            if programs is None:
                print("PostgreSQL (initdb) is missing; run with --database sqlite", file=sys.stderr)
                return 1
            (directory / "server").mkdir()
            with PostgresServer(programs, directory / "server") as url:
                return _run_in(directory, url, seed, start, requests)
        return _run_in(directory, None, seed, start, requests)


def _run_in(directory: Path, url: str | None, seed: int, start: int, requests: int) -> int:
    installations = Installations(directory, url)
    fuzzer = Fuzzer(seed, installations)
    begun = time.monotonic()
    shown = 0

    def progress(number: int) -> None:
        nonlocal shown
        for failure in fuzzer.failures[shown:]:
            print(failure, flush=True)
        shown = len(fuzzer.failures)
        done = number - start + 1
        if done > 0 and done % 1000 == 0:
            rate = done / (time.monotonic() - begun)
            print(f"{'PostgreSQL' if url else 'SQLite'}: {number + 1}, {rate:.0f}/s, {shown} failures", flush=True)

    try:
        fuzzer.run(start, requests, progress)
    except KeyboardInterrupt:
        print(f"interrupted; continue with --seed {seed} --start {start + sum(fuzzer.statuses.values())}")
    finally:
        installations.close()
    print(f"statuses: {dict(sorted(fuzzer.statuses.items()))}; {len(fuzzer.failures)} failures", flush=True)
    return len(fuzzer.failures)


if __name__ == "__main__":
    raise SystemExit(main())
