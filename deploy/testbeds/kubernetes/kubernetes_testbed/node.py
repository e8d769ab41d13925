"""The node: containerd, the kubelet and kube-proxy."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from .api import Api
from .commands import output_of
from .daemons import Daemons
from .images import pack_image
from .layout import Layout

DAEMONS = ("containerd", "kubelet", "kube-proxy", "cluster-dns")
_PAUSE = "localhost/pause:archelon"


def start_runtime(layout: Layout, daemons: Daemons) -> None:
    """Start containerd without waiting for it. Raises TestBedError."""
    _write_network(layout)
    _start_containerd(layout, daemons)


def await_node(layout: Layout, daemons: Daemons, *, inside: list[str]) -> None:
    """Wait until the node is ready for pods, and kube-proxy for Services. Raises TestBedError."""
    api = Api(layout)
    daemons.start(
        "kube-proxy",
        layout.program("kube-proxy"),
        f"--kubeconfig={layout.kubeconfig('proxy')}",
        f"--hostname-override={layout.name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={layout.pod_network}",
        "--bind-address=127.0.0.1",
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1",
        "--oom-score-adj=0",
        # Do not change settings of the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    )
    daemons.await_ready("kubelet", lambda: _is_ready(api.get(f"/api/v1/nodes/{layout.name}")))
    ask = [*inside, "curl", "--silent", "--fail", "--max-time", "2", "http://127.0.0.1:10256/healthz"]
    daemons.await_ready("kube-proxy", lambda: bool(output_of(ask, check=False)))


def _is_ready(node: object) -> bool:
    conditions = node.get("status", {}).get("conditions", []) if isinstance(node, dict) else []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _write_network(layout: Layout) -> None:
    directory = layout.state / "cni"
    directory.mkdir(exist_ok=True)
    first, last = layout.pod_range
    addresses = {
        "type": "host-local",
        "dataDir": str(layout.state / "addresses"),
        "ranges": [
            [{"subnet": layout.pod_network, "rangeStart": first, "rangeEnd": last, "gateway": layout.node_address}]
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": layout.bridge, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": False}
    document = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}
    (directory / "10-pods.conflist").write_text(json.dumps(document, indent=1) + "\n")


def _start_containerd(layout: Layout, daemons: Daemons) -> None:
    configuration = layout.state / "containerd.toml"
    configuration.write_text(
        f"""version = 2
root = "{layout.state}/containerd/root"
state = "{layout.state}/containerd/state"

[grpc]
  address = "{layout.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.state}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{_PAUSE}"
  # Machines without CAP_SYS_RESOURCE cannot lower a score.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.state}/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{layout.program("runc")}"
      SystemdCgroup = false
"""
    )
    daemons.start("containerd", layout.program("containerd"), f"--config={configuration}")


def _await_containerd(layout: Layout, daemons: Daemons) -> None:
    """Wait until containerd responds, and load the image that every pod needs."""
    ctr = [layout.program("ctr"), f"--address={layout.containerd_socket}", "--namespace=k8s.io"]
    daemons.await_ready("containerd", lambda: "Server" in output_of([*ctr, "version"], check=False))
    if _PAUSE not in output_of([*ctr, "images", "ls", "--quiet"]).split():
        with tempfile.TemporaryDirectory() as name:
            root, archive = Path(name) / "root", Path(name) / "pause.tar"
            root.mkdir()
            shutil.copy2(layout.program("pause"), root / "pause")
            pack_image(_PAUSE, root, archive, entrypoint=["/pause"])
            output_of([*ctr, "images", "import", str(archive)])


def start_kubelet(layout: Layout, daemons: Daemons) -> None:
    """Start the kubelet once containerd responds, without waiting for it. Raises TestBedError."""
    _await_containerd(layout, daemons)
    certificates = layout.certificates
    (layout.state / "resolv.conf").write_text(f"nameserver {layout.node_address}\n")
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.node_address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet-server.key"),
        "volumePluginDir": str(layout.state / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.name}",
        "failSwapOn": False,
        "healthzBindAddress": "127.0.0.1",
        "resolvConf": str(layout.state / "resolv.conf"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [layout.node_address],
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Without a registry, collected images would be lost.
        "imageGCHighThresholdPercent": 100,
        # Check the runtime's readiness each second instead of every ten; only changes are reported.
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "5m",
        "maxPods": 110,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }
    configuration = layout.state / "kubelet.json"
    configuration.write_text(json.dumps(document, indent=1) + "\n")
    socket = f"unix://{layout.containerd_socket}"
    daemons.start(
        "kubelet",
        layout.program("kubelet"),
        f"--config={configuration}",
        f"--kubeconfig={layout.kubeconfig('kubelet')}",
        f"--hostname-override={layout.name}",
        f"--node-ip={layout.node_address}",
        f"--root-dir={layout.state}/kubelet",
        f"--cert-dir={layout.state}/kubelet-certificates",
        "--container-runtime=remote",
        f"--container-runtime-endpoint={socket}",
        f"--image-service-endpoint={socket}",
    )
