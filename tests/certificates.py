"""A server's TLS certificate, issued by itself for `localhost`."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def server_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Create a key and a certificate in `directory`; return a context that serves them, and the certificate's path."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
