"""Keystone's API, version 3, as far as we use it: requests through keystoneauth1, and what can go wrong as two errors.

What comes back is Keystone's document, unparsed; the caller knows what is in it. A token is kept by the plugin of the user whose
it is (`Keystone.plugin`), and no error text holds one.

Import this where a service starts, not from a client: keystoneauth1 takes a while to load.
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
#: Seconds after Keystone was last away in which its 403 is not taken for an answer.
_SETTLING: Final = 10.0

_Answer = TypeVar("_Answer")


class KeystoneDownError(Exception):
    """Keystone cannot be asked, or fails by itself; another try may do."""


class KeystoneRefusedError(Exception):
    """Keystone says no.

    Attributes:
        status: of HTTP.
        message: Keystone's own words.
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
        user: id of the user that it stands for.
    """

    token: str = dataclasses.field(repr=False)
    expires: float
    user: str


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceUser:
    """A user of a service's own.

    Args:
        project: its name, or empty for a token of the whole system's scope.
    """

    name: str
    password: str = dataclasses.field(repr=False)
    domain: str = "Default"
    project: str = ""
    project_domain: str = "Default"


class Keystone:
    """One Keystone. Thread-safe.

    Args:
        url: with or without `/v3` at its end.
        ca_file: certificates to believe; the system's without.
        timeout: seconds for one request.
        monotonic: seconds.
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
        """Call a path; the answer's document, or None where it has none.

        Raises:
            KeystoneRefusedError: it answers 4xx.
            KeystoneDownError: it does not answer, or with 5xx; or it has only just come back, and answers 403.
        """
        ask = functools.partial(self._asked, method, path, token=token, document=document, query=query, headers=headers)
        return self._once_settled(ask)

    def _once_settled(self, ask: Callable[[], _Answer]) -> _Answer:
        """What Keystone answers, but for a 403 right after it was away."""
        try:
            return ask()
        except KeystoneDownError:
            self._seen_down = self._monotonic()
            raise
        except KeystoneRefusedError as error:
            # Keystone loads its rules with the first requests after a start, and until then forbids all that come beside them.
            if error.status == 403 and self._monotonic() - self._seen_down < _SETTLING:
                raise KeystoneDownError(f"{self.url}: it has just come back, and answers 403") from None
            raise

    def _asked(
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
            answer = self._session.request(
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
        return _document(self.url, answer)

    def plugin(self, user: ServiceUser, *, trust: str = "") -> v3.Password:
        """Authenticates a service's own user or, by a trust, whom it acts for; keeps its token until shortly before its end."""
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
        """A plugin's token, issued anew where it is about to end or was invalidated.

        Raises:
            KeystoneRefusedError, KeystoneDownError: as `request`.
        """
        return self._once_settled(functools.partial(self._issued, plugin))

    def authenticate(self, user: ServiceUser, *, trust: str = "") -> Access:
        """A new token of a service's own user or, by a trust, of whom it acts for. Raises as `access` does."""
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
        ends = access.expires
        assert ends is not None, "Keystone says of every token when it ends"
        return Access(str(access.auth_token), ends.timestamp(), str(access.user_id))


def seconds_of(time: str) -> float:
    """A time of Keystone's, `2026-01-31T12:00:00.000000Z`, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def roles_of(token: Mapping[str, Any]) -> Sequence[str]:
    """The names of the roles in a token's document."""
    return [str(each["name"]) for each in token.get("roles", ())]


def _document(url: str, answer: Any) -> Any:
    status = int(answer.status_code)
    if status >= 500 or status == 429:
        raise KeystoneDownError(f"{url} answers {status}")
    try:
        document = answer.json() if answer.content else None
    except ValueError:
        raise KeystoneDownError(f"{url} answers {status} with something that is no JSON") from None
    if status >= 300:
        error = document.get("error") if isinstance(document, dict) else None
        message = str(error.get("message", "")) if isinstance(error, dict) else ""
        raise KeystoneRefusedError(status, message[:300])
    return document
