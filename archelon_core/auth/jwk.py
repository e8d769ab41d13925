"""Public keys as text: a JWK set (RFC 7517; RFC 8037 for Ed25519), such as an orchestrator's environment carries.

A key is believed for one issuer only, and RFC 7517 has no member for that: it is the extra member `iss` of each key,
which section 4 allows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from .signing_keys import PublicKey, VerificationKey, VerificationKeys


def write_jwk_set(keys: Sequence[VerificationKey]) -> str:
    """The keys as a JWK set in JSON."""
    return json.dumps({"keys": [_written(each) for each in keys]}, separators=(",", ":"))


def read_jwk_set(text: str) -> VerificationKeys:
    """The keys of a JWK set.

    Raises:
        ValueError: it is not one, a key says no issuer, or is of another sort than Ed25519 or P-256.
    """
    try:
        return VerificationKeys([_read(each) for each in json.loads(text)["keys"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a JWK set of Ed25519 or P-256 keys, each with its iss: {error!r}") from error


def _written(key: VerificationKey) -> dict[str, str]:
    members = {"kid": key.key_id, "alg": key.algorithm, "use": "sig", "iss": key.issuer}
    if isinstance(key.key, ed25519.Ed25519PublicKey):
        return {**members, "kty": "OKP", "crv": "Ed25519", "x": _text(key.key.public_bytes_raw())}
    numbers = key.key.public_numbers()
    x, y = (_text(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    return {**members, "kty": "EC", "crv": "P-256", "x": x, "y": y}


def _read(members: dict[str, Any]) -> VerificationKey:
    key: PublicKey
    if (members["kty"], members["crv"]) == ("OKP", "Ed25519"):
        key = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(members["x"]))
    elif (members["kty"], members["crv"]) == ("EC", "P-256"):
        x, y = (int.from_bytes(_bytes(members[name]), "big") for name in ("x", "y"))
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    else:
        raise ValueError(f"a key of sort {members['kty']}, {members['crv']}; Ed25519 and P-256 are taken")
    return VerificationKey.of(key, issuer=members["iss"], key_id=members.get("kid"))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
