"""The Kubernetes platform: orchestrators as Deployments, stacks from manifests, nodes of infrastructure descriptions as pods.

`api` sends plain JSON over the official client's connections and credentials; `discovery` caches the served kinds. All other
modules compare the desired objects with those in the cluster, and apply the difference server-side.
"""
