"""A real Kubernetes on one Debian machine, out of Debian packages alone, in a network namespace of its own.

    layout         where everything is: addresses, directories, programs
    namespace      the network and mount namespaces and the link to them; the cgroup that holds every process
    daemons        starts and stops processes, and knows them again
    certificates   keys, certificates, kubeconfig files
    control_plane  etcd and the three servers
    node           containerd, kubelet, kube-proxy
    cluster_dns    names of Services, for pods
    images         an image out of a directory, without a builder
    cluster        all of it, up and down

Everything runs inside the namespace, with the addresses of `layout`: no port of the machine is taken, and no chain of its
packet filter is touched. All processes, pods included, are in one cgroup, so that taking it down misses none, however the
last run ended. It stands on the standard library alone.
"""
