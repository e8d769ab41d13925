"""Signing and encryption keys of the services, and Prometheus' token. Existing ones are never replaced."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from .output import Output, output_option

#: The services that sign tokens.
ISSUERS: Final = ("service-manager", "cloud-controller")


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@output_option
def keys(directory: Path, output: Output) -> None:
    """Create the keys of a service manager and a cloud controller in DIRECTORY, and Prometheus' token for their metrics.

    Existing files are kept. Protect them like passwords: they allow anyone to act as either service and to decrypt data in
    their databases. Without the keys, this data is lost.
    """
    from archelon_core.encryption import keys_from_file

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    public = {}
    for issuer in ISSUERS:
        public[issuer] = directory / f"{issuer}.pub"
        make_signing_key(directory / f"{issuer}.pem", public[issuer])
        keys_from_file(directory / f"{issuer}-encryption.keys")
    write_private(directory / "verification-keys.json", verification_keys(public) + "\n")
    token = directory / "metrics-token"
    if not token.exists():
        # Without a newline: the setting takes the file's content verbatim.
        write_private(token, secrets.token_hex(32))
    files = sorted([path.name for path in directory.iterdir()])
    output.line(f"{directory} contains {', '.join(files)}", directory=str(directory), files=files)


def make_signing_key(private: Path, public: Path) -> None:
    """Create a key pair, unless it exists."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    if not private.exists():
        made = ed25519.Ed25519PrivateKey.generate()
        text = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(private, text.decode())
    if not public.exists():
        loaded = serialization.load_pem_private_key(private.read_bytes(), password=None)
        shown = loaded.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_private(public, shown.decode())


def verification_keys(public: Mapping[str, Path]) -> str:
    """Return the issuers' public keys, read from their files, as a JWK set on one line."""
    from archelon_core.auth import VerificationKey, write_jwk_set

    found = [VerificationKey.from_pem(path.read_bytes(), issuer=issuer) for issuer, path in public.items()]
    return json.dumps(json.loads(write_jwk_set(found)))


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
