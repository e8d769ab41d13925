"""A real Kubernetes on one Debian machine, from Debian packages only, in a separate network namespace.

    layout         addresses, directories, programs
    namespace      network and mount namespaces, the link to them, and the cgroup of all processes
    daemons        starts, stops and identifies processes
    certificates   keys, certificates, kubeconfig files
    control_plane  etcd and the three servers
    node           containerd, kubelet, kube-proxy
    cluster_dns    DNS of Services, for pods
    images         packs a directory as an image
    cluster        brings everything up and takes it down

Everything runs in the namespace with the addresses of `layout`, without using a port of the machine or changing its packet
filter. All processes, including those of pods, are in one cgroup, so that taking it down finds them all, however the last run
ended. It needs only the standard library.
"""
