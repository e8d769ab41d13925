"""Start tokens: with one, an orchestrator's process requests its other tokens from the service manager.

A container may restart long after any signed token has expired, in the environment that it was created with. The environment
therefore contains a different kind of secret: random, known to the service manager only, and valid for nothing but the action
`renew` of its own instance, until the instance is gone.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any, Final

import sqlalchemy as sa

from archelon_core.auth import Identity, InvalidTokenError, Role, TenantId, TokenKind
from archelon_core.encryption import Cipher, DecryptionError
from archelon_core.statements import Statement

from . import tables

_PREFIX: Final = "start."
_FIND: Final = Statement(
    sa.select(tables.instances.c.start_token, tables.instances.c.tenant).where(
        tables.instances.c.id == sa.bindparam("id")
    )
)
#: Audience of a start token's identity: only the action `renew` accepts it.
START_AUDIENCE: Final = "start"
START_ISSUER: Final = "start"


def new_start_token(instance: str) -> str:
    """Return a start token: the instance's id and 256 random bits."""
    return f"{_PREFIX}{instance}.{secrets.token_urlsafe(32)}"


class StartTokens:
    """A `TokenVerifier` for start tokens.

    Args:
        database: contains the instances (`archelon_core.database.Database`).
        cipher: decrypts the stored tokens.
    """

    def __init__(self, database: Any, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def verify(self, token: str) -> Identity:
        """Return the identity of a token.

        Raises:
            InvalidTokenError: it is not the start token of an existing instance.
        """
        segments = token.split(".")
        if len(segments) != 3 or not token.startswith(_PREFIX) or len(token) > 200:
            raise InvalidTokenError("not a start token")
        with self._database.read() as connection:
            row = _FIND.row(connection, {"id": segments[1]})
        if row is None or row.start_token is None:
            raise InvalidTokenError("start token of an instance that is gone")
        try:
            expected = self._cipher.decrypt(row.start_token, context=(segments[1], "start_token"))
        except DecryptionError as error:
            raise InvalidTokenError("the start token at rest cannot be decrypted") from error
        if not hmac.compare_digest(expected.encode(), token.encode()):
            raise InvalidTokenError("wrong start token")
        return Identity(
            subject=f"instance:{segments[1]}",
            tenant_id=TenantId(row.tenant),
            tenant_name="",
            roles=frozenset((Role.INSTANCE,)),
            kind=TokenKind.INSTANCE,
            expires=None,
            issuer=START_ISSUER,
            token_id=f"start:{segments[1]}",
            instance_id=segments[1],
            audience=START_AUDIENCE,
        )
