"""Removes secrets from log lines, exception texts and the fields beside a message.

Two things are known to be secret. Registered values (settings, keys) are found anywhere, in their original form and in the
spellings of repr, JSON, URLs and base64. Values of secret headers, of `Bearer`, and the user part of a URL are found by pattern,
since a tenant's token is never known in advance.

Guessing secrets by entropy or length was decided against: it hides ids that a reader needs, and misses words.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable, Mapping

#: Replaces a secret.
HIDDEN = "[hidden]"

#: Header fields whose values are secret, in lower case.
SECRET_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-auth-token",
        "x-service-token",
        "x-subject-token",
    }
)

#: Minimum length of a secret in characters; hiding a shorter one would hide half of every line.
SHORTEST = 4
_DEEPEST = 8
_LONGEST = 64 * 1024

_names = "|".join(sorted(name.replace("-", "[-_]") for name in SECRET_HEADERS))
# The value is what is quoted, or else everything up to the end of the line: a header may contain spaces and commas.
_HEADER = re.compile(
    rf"""(?P<head>(?:http_)?(?:{_names})(?:\\?["']\s*[:=,]|\s*[:=])\s*(?:b(?=["']))?)(?:(?P<quote>\\?["'])(?:(?!(?P=quote)).)*(?P=quote)|[^\r\n]+)""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE)
# Lookbehind instead of \b in these two: one start for each run of characters keeps hostile text linear.
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_USERINFO = re.compile(r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)[^\s/?#@'\"]+@", re.IGNORECASE)


class Redactor:
    """Hides registered secrets, and known secret headers, in text and in structures. Thread-safe."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._spellings: tuple[str, ...] = ()
        self.register(*secrets)

    def register(self, *secrets: str) -> None:
        """Hide these from now on, for the life of the process (for configured secrets, not for each request's token).

        Raises:
            ValueError: a secret is shorter than 4 characters; hiding it would hide half of every line.
        """
        found: set[str] = set()
        for secret in secrets:
            if len(secret) < SHORTEST:
                raise ValueError(
                    f"a secret of fewer than {SHORTEST} characters cannot be hidden in logs; make it longer"
                )
            found |= spellings(secret)
        with self._lock:
            # The longest first: hide a secret that contains another as a whole.
            self._spellings = tuple(sorted(found.union(self._spellings), key=lambda text: (-len(text), text)))

    def text(self, text: str, *, also: Iterable[str] = ()) -> str:
        """The text without secrets; truncated to 64 KiB after hiding them.

        Args:
            text: anything.
            also: further secrets, for this text only (the tokens of the present request).
        """
        for secret in self._spellings:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        for secret in also:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        text = _known_forms(text)
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}… ({len(text) - _LONGEST} characters more)"
        return text

    def value(self, value: object, *, also: Iterable[str] = (), depth: int = 0) -> object:
        """The value as JSON, without secrets: what JSON cannot hold becomes text, what is too deep is left out."""
        if value is None or value is True or value is False or isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return self.text(value, also=also)
        if depth >= _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return {
                self.text(_as_text(key), also=also): (
                    HIDDEN if _is_secret_name(key) else self.value(member, also=also, depth=depth + 1)
                )
                for key, member in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            members = list(value)
            if len(members) == 2 and _is_secret_name(members[0]):
                return [members[0] if isinstance(members[0], str) else _as_text(members[0]), HIDDEN]
            return [self.value(member, also=also, depth=depth + 1) for member in members]
        return self.text(_as_text(value), also=also)


def _known_forms(text: str) -> str:
    # A cheap search decides whether to try each pattern: most lines contain none of these.
    lowered = text.lower()
    if "token" in lowered or "authorization" in lowered or "cookie" in lowered:
        text = _HEADER.sub(rf"\g<head>{HIDDEN}", text)
    if "bearer" in lowered:
        text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    if "eyj" in lowered:
        text = _JWT.sub(HIDDEN, text)
    if "@" in text:
        text = _USERINFO.sub(rf"\g<1>{HIDDEN}@", text)
    return text


def _is_secret_name(name: object) -> bool:
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        return False
    return name.lower().replace("_", "-").removeprefix("http-") in SECRET_HEADERS


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything, and the line must still be written
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def spellings(secret: str) -> set[str]:
    """The spellings of a secret: as it is, in repr, JSON, URLs and base64."""
    encoded = secret.encode("utf-8", "surrogatepass")
    return {
        secret,
        repr(secret)[1:-1],
        repr(encoded)[2:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        urllib.parse.quote(encoded, safe=""),
        urllib.parse.quote(encoded),
        urllib.parse.quote_plus(encoded),
        base64.b64encode(encoded).decode("ascii"),
        base64.urlsafe_b64encode(encoded).decode("ascii"),
    }
