"""Encryption of secrets at rest: each is bound to the place where it is stored, and decrypts only there.

AES-256-GCM with a fresh 96-bit nonce for each value (NIST SP 800-38D). The place (for example entity id and attribute name) is
authenticated with the text, so a token copied to another row or column does not decrypt: an administrator of the database cannot
move one tenant's secret to another's entity and read it there.

A token is `<version>.<key id>.<nonce + ciphertext>`. The key id names the key, so keys can be rotated: put the new key first,
restart, re-encrypt each token that is not `is_current`, then drop the old key. MultiFernet was decided against: it authenticates
no place, and tries all keys.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .private_files import others_may_read

_VERSION = "a1"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class DecryptionError(Exception):
    """A token could not be decrypted: unknown key, altered, or moved from its place. The text never contains the value."""


class InvalidKeyError(ValueError):
    """A key, or a key file, is unusable."""


def generate_key() -> str:
    """A new random key: 256 bits in URL-safe base64 (44 characters)."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode("ascii")


class Cipher:
    """Encrypts with the first of its keys, decrypts with any of them. Threads may share one.

    Args:
        keys: keys from `generate_key`, the current one first, older ones after it.
        random: returns that many random bytes; a nonce must never repeat under one key.

    Raises:
        InvalidKeyError: no key, or one that is not 32 bytes in URL-safe base64. The text states its position, never the key.
    """

    def __init__(self, keys: Sequence[str], *, random: Callable[[int], bytes] = os.urandom) -> None:
        if not keys:
            raise InvalidKeyError("no encryption key is configured; create one with generate_key()")
        self._random = random
        self._ciphers: dict[str, AESGCM] = {}
        for position, key in enumerate(keys, start=1):
            raw = _decode_key(key, place=f"encryption key {position} of {len(keys)}")
            self._ciphers.setdefault(_key_id(raw), AESGCM(raw))
        self._current = next(iter(self._ciphers))
        self._current_prefix = f"{_VERSION}.{self._current}."

    def encrypt(self, text: str, *, context: Sequence[str]) -> str:
        """A token (ASCII, URL-safe) that `decrypt` accepts in the same context only.

        Args:
            text: the secret.
            context: names its place, for example `(entity id, attribute name)`. The parts are kept separate: `("a", "bc")`
                differs from `("ab", "c")`.
        """
        nonce = self._random(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, text.encode("utf-8"), _place(context))
        return self._current_prefix + base64.urlsafe_b64encode(nonce + sealed).decode("ascii").rstrip("=")

    def decrypt(self, token: str, *, context: Sequence[str]) -> str:
        """The text of a token.

        Raises:
            DecryptionError: not one of our tokens, its key is not configured, or it was altered or moved.
        """
        version, _, rest = token.partition(".")
        key_id, _, body = rest.partition(".")
        if version != _VERSION or not body:
            raise DecryptionError(f"{_where(context)} is not encrypted (a token begins with {_VERSION!r})")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecryptionError(
                f"{_where(context)} is encrypted with key {key_id[:16]!r}, which is not configured; "
                "add that key after the current one"
            )
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _place(context)).decode("utf-8")
        except (binascii.Error, InvalidTag, ValueError):
            # From None: the causes add nothing, and a traceback might show the bytes.
            raise DecryptionError(
                f"{_where(context)} does not decrypt: it was altered, or moved from elsewhere"
            ) from None

    def is_current(self, token: str) -> bool:
        """Whether the token uses the current key; if not, decrypt it and encrypt it again."""
        return token.startswith(self._current_prefix)


def keys_from_file(path: Path) -> tuple[str, ...]:
    """The keys of a file, one per line, the current one first; creates the file, with mode 0600, if it is missing.

    For one machine. Two processes that start at once get the same key: each writes a complete file under its own name and links
    it into place, and the second link fails.

    Raises:
        InvalidKeyError: the file is readable by others, belongs to another user, or contains no usable key.
        OSError: the directory is not writable.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read_keys(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(generate_key() + "\n")
            file.flush()
            # Losing the key in a power cut would lose every secret encrypted with it.
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    _sync_directory(path.parent)
    return _read_keys(path)


def _read_keys(path: Path) -> tuple[str, ...]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0):
            raise InvalidKeyError(
                f"the key file {path} belongs to another user; give it to the user who runs this service"
            )
        if others_may_read(status):
            raise InvalidKeyError(f"others can read the key file {path}; run: chmod 600 {path}")
        lines = [line.strip() for line in file]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InvalidKeyError(f"the key file {path} contains no key; restore it, or remove it to start with a new key")
    for position, key in enumerate(keys, start=1):
        _decode_key(key, place=f"key {position} of the key file {path}")
    return keys


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decode_key(key: str, *, place: str) -> bytes:
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise InvalidKeyError(f"{place} is not {_KEY_BYTES} bytes in URL-safe base64; create one with generate_key()")
    return raw


def _key_id(raw: bytes) -> str:
    # The id must disclose nothing about the key: a truncated hash with its own label.
    return hashlib.sha256(b"archelon key id\0" + raw).hexdigest()[:12]


def _place(context: Sequence[str]) -> bytes:
    if isinstance(context, str):
        raise TypeError('the context is a sequence of names, such as (entity_id, "attribute"), not one string')
    return json.dumps([_VERSION, *context], separators=(",", ":")).encode("ascii")


def _where(context: Sequence[str]) -> str:
    return "the value of " + " / ".join(context)
