"""The keys of signed tokens: configured, several at a time, each bound to one issuer and one algorithm.

Rotating a key takes three steps, none of which refuses a valid token: configure the new public key everywhere; sign with the
new key; remove the old one after the longest lifetime. A key id defaults to the key's thumbprint (RFC 7638), so ids of two
issuers never collide. Nothing is fetched: the key locations in a token's header (`jku`, `x5u`, `jwk`) are ignored.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

Algorithm = Literal["EdDSA", "ES256"]
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KINDS = "Ed25519 (EdDSA) or P-256 (ES256)"


@dataclasses.dataclass(frozen=True, slots=True)
class VerificationKey:
    """A trusted public key, for tokens of `issuer` only."""

    key_id: str
    issuer: str
    algorithm: Algorithm
    key: PublicKey = dataclasses.field(repr=False)

    @classmethod
    def from_pem(cls, pem: bytes, *, issuer: str) -> VerificationKey:
        """Read a public key in PEM. Raises ValueError: not a public key of an accepted kind."""
        if b"PRIVATE KEY" in pem:
            raise ValueError(f"the key of issuer {issuer!r} is a private key; configure the public one to verify with")
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"the key of issuer {issuer!r} is not a public key in PEM") from None
        if not isinstance(key, PublicKey):
            raise ValueError(f"the key of issuer {issuer!r} must be {_KINDS}")
        return cls.of(key, issuer=issuer)

    @classmethod
    def of(cls, key: PublicKey, *, issuer: str, key_id: str | None = None) -> VerificationKey:
        """A verification key over `key`. Raises ValueError: a curve other than P-256, no issuer, or a malformed key id."""
        if not issuer:
            raise ValueError("a signing key needs an issuer")
        if key_id is not None and not _KEY_ID.fullmatch(key_id):
            raise ValueError(f"key id {key_id!r}: 1 to 64 letters, digits and . _ -")
        algorithm = _algorithm(key)
        return cls(key_id or _thumbprint(key), issuer, algorithm, key)


@dataclasses.dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and the public key that verifiers get."""

    private: PrivateKey = dataclasses.field(repr=False)
    public: VerificationKey

    @classmethod
    def from_pem(cls, pem: bytes, *, issuer: str) -> SigningKey:
        """Read an unencrypted private key in PEM (PKCS#8).

        Raises:
            ValueError: not a private key of an accepted kind. The text contains nothing of the key.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"the signing key of issuer {issuer!r} is not an unencrypted private key in PEM") from None
        if not isinstance(key, PrivateKey):
            raise ValueError(f"the signing key of issuer {issuer!r} must be {_KINDS}")
        return cls.of(key, issuer=issuer)

    @classmethod
    def of(cls, key: PrivateKey, *, issuer: str, key_id: str | None = None) -> SigningKey:
        """A signing key over `key`; raises ValueError as `VerificationKey.of`."""
        return cls(key, VerificationKey.of(key.public_key(), issuer=issuer, key_id=key_id))


class VerificationKeys:
    """The trusted keys, by key id. Raises ValueError: two keys share an id."""

    def __init__(self, keys: Sequence[VerificationKey]) -> None:
        by_id: dict[str, VerificationKey] = {}
        for key in keys:
            if key.key_id in by_id:
                raise ValueError(f"two verification keys have the id {key.key_id!r}; leave ids out to have thumbprints")
            by_id[key.key_id] = key
        self._by_id: Mapping[str, VerificationKey] = by_id

    def get(self, key_id: str) -> VerificationKey | None:
        """The key of exactly that id. An id is only looked up; it never names a file or URL."""
        return self._by_id.get(key_id)


def _algorithm(key: PublicKey) -> Algorithm:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    raise ValueError(f"curve {key.curve.name} is not accepted; use {_KINDS}")


def write_jwk_set(keys: Sequence[VerificationKey]) -> str:
    """The keys as a JWK set in JSON (RFC 7517, RFC 8037), as in an orchestrator's environment.

    A key is trusted for one issuer only, and RFC 7517 has no member for that: each key has the extra member `iss`, which
    section 4 allows.
    """
    written = [
        {"kid": each.key_id, "alg": each.algorithm, "use": "sig", "iss": each.issuer, **_jwk(each.key)} for each in keys
    ]
    return json.dumps({"keys": written}, separators=(",", ":"))


def read_jwk_set(text: str) -> VerificationKeys:
    """The keys of a JWK set.

    Raises:
        ValueError: not a JWK set, a key without an issuer, or one that is neither Ed25519 nor P-256.
    """
    try:
        return VerificationKeys([_read(each) for each in json.loads(text)["keys"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a JWK set of Ed25519 or P-256 keys, each with its iss: {error!r}") from error


def _jwk(key: PublicKey) -> dict[str, str]:
    """The members of a JWK that identify the key."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}
    numbers = key.public_numbers()
    x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _read(members: Mapping[str, Any]) -> VerificationKey:
    key: PublicKey
    if (members["kty"], members["crv"]) == ("OKP", "Ed25519"):
        key = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(members["x"]))
    elif (members["kty"], members["crv"]) == ("EC", "P-256"):
        x, y = (int.from_bytes(_bytes(members[name]), "big") for name in ("x", "y"))
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    else:
        raise ValueError(f"key of type {members['kty']}, {members['crv']} is not accepted; use Ed25519 or P-256")
    return VerificationKey.of(key, issuer=members["iss"], key_id=members.get("kid"))


def _thumbprint(key: PublicKey) -> str:
    """RFC 7638 (and RFC 8037 for Ed25519): SHA-256 of the required members of the JWK, in order of their names."""
    document = json.dumps(_jwk(key), separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(document.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
