"""The header fields that carry the caller's identity, kept out of all texts.

A token is a string, or a callable that returns the present one (tokens expire), called for every request. It never appears in a
repr, and is removed from the server's texts before they become an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

Token = str | Callable[[], str | None] | None
RequestId = str | Callable[[], str | None] | None
TokenField = Literal["Authorization", "X-Auth-Token"]

#: Permitted values of header fields (RFC 9110, 5.5), in Latin-1.
_VALUE: Final = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
#: Fields whose values are not secret; any other field added by the caller is treated as secret.
_OPEN: Final = frozenset(
    ("accept-language", "x-tenant-name", "x-request-id", "traceparent", "tracestate", "user-agent")
)


class Credentials:
    """The identity fields of every request.

    Args:
        field: `Authorization` sends `Bearer <token>`, `X-Auth-Token` the token alone.
        tenant_name: `X-Tenant-Name`; must be the token's own project.
        request_id: `X-Request-Id`, which identifies the work in all services; a callable is called for each request.
        headers: additional fields; their values are kept out of texts, like the token.

    Raises:
        ValueError: a name or value is not valid in a header. The value is not shown.
    """

    __slots__ = ("_field", "_headers", "_request_id", "_tenant_name", "_token")

    def __init__(
        self,
        token: Token = None,
        *,
        field: TokenField = "Authorization",
        tenant_name: str | None = None,
        request_id: RequestId = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if field not in ("Authorization", "X-Auth-Token"):
            raise ValueError("the token field must be Authorization or X-Auth-Token")
        self._token = token
        self._field = field
        self._tenant_name = tenant_name
        self._request_id = request_id
        self._headers = dict(headers or {})
        if isinstance(token, str):
            _check_token(token)
        for name, value in self._headers.items():
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is not a header field's name")
            _check_value(name, value)
        if tenant_name is not None:
            _check_value("X-Tenant-Name", tenant_name)

    def using(
        self, *, token: Token = None, request_id: RequestId = None, headers: Mapping[str, str] | None = None
    ) -> Credentials:
        """Return a copy with another token or request id, or with additional fields."""
        return Credentials(
            self._token if token is None else token,
            field=self._field,
            tenant_name=self._tenant_name,
            request_id=self._request_id if request_id is None else request_id,
            headers={**self._headers, **(headers or {})},
        )

    def __repr__(self) -> str:
        return f"<Credentials in {self._field}>" if self._token is not None else "<Credentials without a token>"

    def fields(self) -> tuple[dict[str, str], frozenset[str]]:
        """Return the header fields for one request, and those of their values that are secret.

        Raises:
            ValueError: the token or request id is not valid in a header. It is not shown.
        """
        fields = dict(self._headers)
        secrets = {value for name, value in fields.items() if name.lower() not in _OPEN and value}
        token = self._token() if callable(self._token) else self._token
        if token is not None:
            _check_token(token)
            secrets.add(token)
            fields[self._field] = f"Bearer {token}" if self._field == "Authorization" else token
        if self._tenant_name is not None:
            fields["X-Tenant-Name"] = self._tenant_name
        request_id = self._request_id() if callable(self._request_id) else self._request_id
        if request_id:
            _check_value("X-Request-Id", request_id)
            fields["X-Request-Id"] = request_id
        return fields, frozenset(secrets)


def _check_token(token: str) -> None:
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise ValueError("the token is empty or has characters that are not valid in a header field")


def _check_value(name: str, value: str) -> None:
    if not isinstance(value, str) or _VALUE.fullmatch(value) is None:
        raise ValueError(f"the value of the header field {name} has characters that are not valid in a header field")
