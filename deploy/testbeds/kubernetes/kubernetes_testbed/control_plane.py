"""etcd, the API server, the controllers and the scheduler."""

from __future__ import annotations

from .api import Api
from .commands import output_of
from .daemons import Daemons
from .layout import Layout

#: In order of their start.
DAEMONS = ("etcd", "apiserver", "controller-manager", "scheduler")
_ETCD = "http://127.0.0.1:2379"
_PEERS = "http://127.0.0.1:2380"


def start_store(layout: Layout, daemons: Daemons) -> None:
    """Start etcd without waiting for it."""
    daemons.start(
        "etcd",
        layout.program("etcd"),
        f"--name={layout.name}",
        f"--data-dir={layout.state}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_PEERS}",
        f"--initial-advertise-peer-urls={_PEERS}",
        f"--initial-cluster={layout.name}={_PEERS}",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    )


def start_controllers(layout: Layout, daemons: Daemons) -> None:
    """Wait until the API is ready, and start controllers and scheduler. Raises TestBedError."""
    api = Api(layout)
    daemons.await_ready("apiserver", lambda: api.get("/readyz") == "ok")
    certificates = layout.certificates
    identity = [
        *(f"--{use}kubeconfig={{}}" for use in ("", "authentication-", "authorization-")),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        # With the defaults, the controllers take five seconds to start.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]
    daemons.start(
        "controller-manager",
        layout.program("kube-controller-manager"),
        *(each.format(layout.kubeconfig("controller-manager")) for each in identity),
        f"--cert-dir={layout.state}",
        f"--flex-volume-plugin-dir={layout.state}/volume-plugins",
        f"--service-account-private-key-file={certificates}/accounts.key",
        f"--root-ca-file={certificates}/ca.crt",
        f"--cluster-signing-cert-file={certificates}/ca.crt",
        f"--cluster-signing-key-file={certificates}/ca.key",
        "--use-service-account-credentials=true",
        f"--service-cluster-ip-range={layout.service_network}",
    )
    daemons.start(
        "scheduler",
        layout.program("kube-scheduler"),
        *(each.format(layout.kubeconfig("scheduler")) for each in identity),
        f"--cert-dir={layout.state}",
    )


def await_controllers(layout: Layout, daemons: Daemons) -> None:
    """Wait until the controllers are running. Raises TestBedError."""
    api = Api(layout)
    # A controller creates this account, so its existence shows that they run.
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    daemons.await_ready("controller-manager", lambda: api.get(account) is not None)


def start_api_server(layout: Layout, daemons: Daemons, *, inside: list[str]) -> None:
    """Start the API server once etcd is healthy, without waiting for it; `inside` enters the namespaces. Raises TestBedError."""
    # etcd listens on the namespace's loopback.
    ask = [*inside, "curl", "--silent", "--fail", "--max-time", "2", f"{_ETCD}/health"]
    daemons.await_ready("etcd", lambda: bool(output_of(ask, check=False)))
    certificates = layout.certificates
    daemons.start(
        "apiserver",
        layout.program("kube-apiserver"),
        f"--etcd-servers={_ETCD}",
        f"--bind-address={layout.node_address}",
        f"--advertise-address={layout.node_address}",
        "--secure-port=6443",
        f"--cert-dir={layout.state}",
        f"--tls-cert-file={certificates}/apiserver.crt",
        f"--tls-private-key-file={certificates}/apiserver.key",
        f"--client-ca-file={certificates}/ca.crt",
        f"--service-account-key-file={certificates}/accounts.pub",
        f"--service-account-signing-key-file={certificates}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={layout.service_network}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--anonymous-auth=false",
        "--profiling=false",
        f"--kubelet-client-certificate={certificates}/apiserver-kubelet.crt",
        f"--kubelet-client-key={certificates}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={certificates}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
    )
