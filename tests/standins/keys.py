"""The verification keys that an orchestrator is given in its environment: a JWK set (RFC 7517, RFC 8037).

A key is believed for one issuer only, which RFC 7517 has no member for; here it is the extra member `iss` of each key
(section 4 allows more members). A set without it speaks for the one who wrote the environment: the issuer of the start
token that came with it.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from occi_service.identity import VerificationKey, VerificationKeys
from occi_service.identity.signing_keys import PublicKey

__all__ = ["issuer_of", "read_keys", "write_keys"]


def write_keys(keys: Sequence[VerificationKey]) -> str:
    """The keys as a JWK set."""
    return json.dumps({"keys": [_written(each) for each in keys]})


@functools.lru_cache(maxsize=64)
def read_keys(text: str, issuer: str | None = None) -> VerificationKeys:
    """The keys of a JWK set.

    Args:
        issuer: whose keys those are that do not say.

    Raises:
        ValueError: not a JWK set, or a key of another kind than Ed25519 or P-256.
    """
    try:
        return VerificationKeys([_read(each, issuer) for each in json.loads(text)["keys"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a JWK set of Ed25519 or P-256 keys, each with its issuer: {error!r}") from error


def issuer_of(token: str) -> str | None:
    """The `iss` of a signed token, unverified; None where it has none."""
    try:
        payload = json.loads(_bytes(token.split(".")[1]))
    except (IndexError, ValueError):
        return None
    issuer = payload.get("iss") if isinstance(payload, dict) else None
    return issuer if isinstance(issuer, str) else None


def _written(key: VerificationKey) -> dict[str, str]:
    members = {"kid": key.key_id, "alg": key.algorithm, "use": "sig", "iss": key.issuer}
    if isinstance(key.key, ed25519.Ed25519PublicKey):
        return {**members, "kty": "OKP", "crv": "Ed25519", "x": _text(key.key.public_bytes_raw())}
    numbers = key.key.public_numbers()
    return {
        **members,
        "kty": "EC",
        "crv": "P-256",
        "x": _text(numbers.x.to_bytes(32, "big")),
        "y": _text(numbers.y.to_bytes(32, "big")),
    }


def _read(members: dict[str, Any], issuer: str | None) -> VerificationKey:
    key: PublicKey
    if members["kty"] == "OKP" and members["crv"] == "Ed25519":
        key = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(members["x"]))
    elif members["kty"] == "EC" and members["crv"] == "P-256":
        x, y = (int.from_bytes(_bytes(members[name]), "big") for name in ("x", "y"))
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    else:
        raise ValueError(f"a key of kind {members['kty']}, {members['crv']}; Ed25519 and P-256 are taken")
    return VerificationKey.of(key, issuer=members.get("iss") or issuer or "", key_id=members.get("kid"))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
