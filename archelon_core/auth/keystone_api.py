"""Keystone's API, version 3, as far as we use it, through keystoneauth1; failures are one of two errors.

Methods return Keystone's documents unparsed. The plugin of a user (`Keystone.plugin`) keeps that user's token; no error text
contains one.

Import this only where a service starts, not from a client: keystoneauth1 takes a while to load.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from keystoneauth1 import exceptions
from keystoneauth1 import session as sessions
from keystoneauth1.identity import v3

#: Seconds for one request.
TIMEOUT: Final = 5.0
#: Seconds after Keystone was last unavailable in which its 403 is not trusted.
_SETTLING: Final = 10.0

_Result = TypeVar("_Result")


class KeystoneDownError(Exception):
    """Keystone is unavailable, or fails by itself; a retry may succeed."""


class KeystoneRefusedError(Exception):
    """Keystone refuses.

    Attributes:
        status: HTTP status.
        message: Keystone's message.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Keystone answers {status}: {message}")
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """A token that Keystone has issued.

    Attributes:
        expires: seconds since the epoch.
        user: id of the token's user.
    """

    token: str = dataclasses.field(repr=False)
    expires: float
    user: str


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceUser:
    """A user of the service itself.

    Args:
        project: its name, or empty for a system-scoped token.
    """

    name: str
    password: str = dataclasses.field(repr=False)
    domain: str = "Default"
    project: str = ""
    project_domain: str = "Default"


class Keystone:
    """One Keystone. Thread-safe.

    Args:
        url: with or without a final `/v3`.
        ca_file: trusted certificates; by default the system's.
        timeout: seconds for one request.
        monotonic: clock, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: str = "",
        timeout: float = TIMEOUT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        plain = re.sub(r"/v3/?$", "", url.rstrip("/"))
        if not plain.startswith(("http://", "https://")):
            raise ValueError("Keystone's URL begins with http:// or https://")
        self.url = f"{plain}/v3"
        # A redirect would take tokens, and the password, wherever it points.
        self._session = sessions.Session(verify=ca_file or True, timeout=timeout, redirect=False)
        self._monotonic = monotonic
        self._seen_down = float("-inf")

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str,
        document: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request; returns the response's document, or None if it has none.

        Raises:
            KeystoneRefusedError: the response is 4xx.
            KeystoneDownError: no response, or 5xx; or a 403 just after Keystone was unavailable.
        """
        send = functools.partial(self._send, method, path, token=token, document=document, query=query, headers=headers)
        return self._once_settled(send)

    def _once_settled(self, send: Callable[[], _Result]) -> _Result:
        """The result, except for a 403 right after Keystone was unavailable."""
        try:
            return send()
        except KeystoneDownError:
            self._seen_down = self._monotonic()
            raise
        except KeystoneRefusedError as error:
            # After a start, Keystone loads its rules with the first requests; until then it forbids all concurrent ones.
            if error.status == 403 and self._monotonic() - self._seen_down < _SETTLING:
                raise KeystoneDownError(f"{self.url}: answers 403 just after it was unavailable") from None
            raise

    def _send(
        self,
        method: str,
        path: str,
        *,
        token: str,
        document: Any,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Any:
        try:
            response = self._session.request(
                self.url + path,
                method,
                authenticated=False,
                raise_exc=False,
                json=document,
                params=dict(query or {}),
                headers={"X-Auth-Token": token, "Accept": "application/json", **(headers or {})},
                # keystoneauth logs requests at DEBUG, with bodies.
                log=False,
            )
        except (exceptions.ClientException, OSError) as error:
            raise KeystoneDownError(f"{self.url}: {type(error).__name__}") from None
        return _document(self.url, response)

    def plugin(self, user: ServiceUser, *, trust: str = "") -> v3.Password:
        """Authenticates a service's own user or, by a trust, its trustor; caches the token until shortly before its expiry."""
        scope: dict[str, Any] = {"trust_id": trust}
        if not trust:
            scope = {"project_name": user.project, "project_domain_name": user.project_domain}
            if not user.project:
                scope = {"system_scope": "all"}
        return v3.Password(
            auth_url=self.url,
            username=user.name,
            password=user.password,
            user_domain_name=user.domain,
            include_catalog=False,
            **scope,
        )

    def access(self, plugin: v3.Password) -> Access:
        """A plugin's token, renewed if it is about to expire or was invalidated.

        Raises:
            KeystoneRefusedError, KeystoneDownError: as `request`.
        """
        return self._once_settled(functools.partial(self._issued, plugin))

    def authenticate(self, user: ServiceUser, *, trust: str = "") -> Access:
        """A new token of a service's own user or, by a trust, of its trustor. Raises as `access` does."""
        return self.access(self.plugin(user, trust=trust))

    def _issued(self, plugin: v3.Password) -> Access:
        try:
            access = plugin.get_access(self._session)
        except exceptions.HttpError as error:
            if error.http_status is not None and 400 <= error.http_status < 500 and error.http_status != 429:
                raise KeystoneRefusedError(error.http_status, str(error.message or "")[:300]) from None
            raise KeystoneDownError(f"{self.url}: {type(error).__name__}") from None
        except (exceptions.ClientException, OSError) as error:
            raise KeystoneDownError(f"{self.url}: {type(error).__name__}") from None
        assert access.expires is not None, "every Keystone token has an expiry"
        return Access(str(access.auth_token), access.expires.timestamp(), str(access.user_id))


def seconds_of(time: str) -> float:
    """A timestamp of Keystone's, `2026-01-31T12:00:00.000000Z`, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def roles_of(token: Mapping[str, Any]) -> Sequence[str]:
    """The names of the roles in a token document."""
    return [str(each["name"]) for each in token.get("roles", ())]


def _document(url: str, response: Any) -> Any:
    status = int(response.status_code)
    if status >= 500 or status == 429:
        raise KeystoneDownError(f"{url} answers {status}")
    try:
        document = response.json() if response.content else None
    except ValueError:
        raise KeystoneDownError(f"{url} answers {status} without valid JSON") from None
    if status >= 300:
        error = document.get("error") if isinstance(document, dict) else None
        message = str(error.get("message", "")) if isinstance(error, dict) else ""
        raise KeystoneRefusedError(status, message[:300])
    return document
