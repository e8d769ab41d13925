"""Tests of the Kubernetes platform: rules without a cluster, and what it does on a real one."""
