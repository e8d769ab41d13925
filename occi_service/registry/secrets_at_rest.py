"""Secret attributes as rows store them: one JSON object of tokens, `{name: token}`, beside the document.

A token is bound to its owner, identifier and attribute. An operator runs `rewrite` after a change: it rotates keys, and encrypts
attributes that became secret after they were stored.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import sqlalchemy as sa

from archelon_core import logs

from .records import EntityRecord
from .tables import encode, entities, fact, facts, record_of

_NEXT: Final = (
    sa.select(
        entities.c.identifier,
        entities.c.kind,
        entities.c.source,
        entities.c.document,
        entities.c.secrets,
        entities.c.sequence,
        entities.c.owner,
    )
    .where(entities.c.sequence > sa.bindparam("after"))
    .order_by(entities.c.sequence)
    .limit(sa.bindparam("most"))
    .with_for_update()
)


class Cipher(Protocol):
    """Encrypts secrets, each bound to its context."""

    def encrypt(self, text: str, *, context: Sequence[str]) -> str: ...
    def decrypt(self, token: str, *, context: Sequence[str]) -> str: ...
    def is_current(self, token: str) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Rewritten:
    """Result of one step of `rewrite`.

    Attributes:
        tokens: number of attributes encrypted again, or for the first time.
        last: start of the next step; None after the last one.
    """

    tokens: int
    last: int | None


class SecretsAtRest:
    """Encrypts and decrypts the secrets of rows."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def encrypt(self, values: Mapping[str, Any], owner: str, identifier: str) -> str | None:
        """Return the JSON object of the tokens of these attributes; None without any."""
        tokens = {name: self._token(value, owner, identifier, name) for name, value in values.items()}
        return json.dumps(tokens) if tokens else None

    def decrypt(self, text: str, owner: str, identifier: str) -> dict[str, Any]:
        """Return the values of a JSON object of tokens, and hide them in the log of the present request."""
        values = {
            name: json.loads(self._cipher.decrypt(token, context=(owner, identifier, name)))
            for name, token in json.loads(text).items()
        }
        for value in values.values():
            logs.hide_in_request(value)
        return values

    def rewrite(
        self, connection: sa.Connection, hidden: Callable[[EntityRecord], frozenset[str]], *, limit: int, after: int
    ) -> Rewritten:
        """Encrypt what is in clear or under an old key, in the next `limit` entities of all tenants.

        Args:
            connection: inside a transaction.
            hidden: returns the secret attributes of an entity by its present kind and mixins.
        """
        count = 0
        rows = connection.execute(_NEXT, {"after": after, "most": limit}).fetchall()
        for row in rows:
            identifier, owner, number = row[0], row[6], row[5]
            tokens: dict[str, str] = json.loads(row[4]) if row[4] else {}
            record = record_of(row, owner)
            bare = {name: value for name, value in record.attributes.items() if name in hidden(record)}
            stale = [name for name, token in tokens.items() if not self._cipher.is_current(token)]
            for name in stale:
                context = (owner, identifier, name)
                tokens[name] = self._cipher.encrypt(
                    self._cipher.decrypt(tokens[name], context=context), context=context
                )
            tokens |= {name: self._token(value, owner, identifier, name) for name, value in bare.items()}
            if not stale and not bare:
                continue
            count += len(stale) + len(bare)
            changed: dict[str, Any] = {"secrets": json.dumps(tokens)}
            if bare:
                plain = {name: value for name, value in record.attributes.items() if name not in bare}
                changed["document"] = encode(dataclasses.replace(record, attributes=plain))
                names = [fact("@" + name, "").name for name in bare]
                connection.execute(facts.delete().where(facts.c.sequence == number, facts.c.name.in_(names)))
            connection.execute(entities.update().where(entities.c.sequence == number), changed)
        return Rewritten(count, rows[-1][5] if len(rows) == limit else None)

    def _token(self, value: Any, owner: str, identifier: str, name: str) -> str:
        return self._cipher.encrypt(json.dumps(value), context=(owner, identifier, name))
