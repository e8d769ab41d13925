"""Creates keys, certificates and kubeconfig files with openssl."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .commands import output_of
from .layout import Layout

_CLIENT = "extendedKeyUsage=clientAuth"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
#: Subjects by user; Kubernetes predefines roles for these names.
_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}


def make_certificates(layout: Layout) -> None:
    """Create keys, certificates and kubeconfig files, unless they exist."""
    directory = layout.certificates
    done = directory / "complete"
    if done.exists():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Files of openssl are readable by root only.
    before = os.umask(0o077)
    try:
        _make_all(layout, directory)
    finally:
        os.umask(before)
    done.touch()


def _make_all(layout: Layout, directory: Path) -> None:
    files = ["-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.crt"]
    output_of(["openssl", "req", "-x509", *_NEW_KEY, "-subj", "/CN=test-bed", "-days", "365", *files])
    output_of(["openssl", "genrsa", "-out", f"{directory}/accounts.key", "2048"])
    output_of(["openssl", "rsa", "-in", f"{directory}/accounts.key", "-pubout", "-out", f"{directory}/accounts.pub"])
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = ["127.0.0.1", layout.first_service, layout.node_address]
    alternatives = ",".join([*(f"IP:{each}" for each in addresses), *(f"DNS:{each}" for each in names)])
    server = "extendedKeyUsage=serverAuth\nsubjectAltName="
    _sign(directory, "apiserver", "/CN=kube-apiserver", server + alternatives)
    node = f"IP:127.0.0.1,IP:{layout.node_address},DNS:{layout.name}"
    _sign(directory, "kubelet-server", f"/CN={layout.name}", server + node)
    _sign(directory, "apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", _CLIENT)
    for user, subject in {**_USERS, "kubelet": f"/O=system:nodes/CN=system:node:{layout.name}"}.items():
        _sign(directory, user, subject, _CLIENT)
        _write_kubeconfig(layout, user)


def _sign(directory: Path, name: str, subject: str, extensions: str) -> None:
    request, text = directory / f"{name}.csr", directory / f"{name}.ext"
    text.write_text(extensions + "\n")
    files = ["-keyout", f"{directory}/{name}.key", "-out", str(request)]
    output_of(["openssl", "req", "-new", *_NEW_KEY, "-subj", subject, *files])
    authority = ["-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key", "-CAcreateserial"]
    files = ["-in", str(request), "-extfile", str(text), "-out", f"{directory}/{name}.crt"]
    output_of(["openssl", "x509", "-req", "-days", "365", *authority, *files])
    request.unlink()
    text.unlink()


def _write_kubeconfig(layout: Layout, user: str) -> None:
    directory = layout.certificates
    # JSON is YAML.
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": layout.name, "cluster": {"server": layout.api, "certificate-authority": str(directory / "ca.crt")}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate": str(directory / f"{user}.crt"),
                    "client-key": str(directory / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": layout.name, "context": {"cluster": layout.name, "user": user}}],
        "current-context": layout.name,
    }
    layout.kubeconfig(user).write_text(json.dumps(document, indent=1) + "\n")
