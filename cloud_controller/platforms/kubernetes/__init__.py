"""The Kubernetes platform: orchestrators as Deployments, stacks from manifests, nodes of descriptions as pods.

`api` speaks to the cluster, in plain JSON over the official client's connection and credentials; `discovery` knows what it
serves; everything above is a comparison of what is wanted with what the cluster shows, applied server-side.
"""
