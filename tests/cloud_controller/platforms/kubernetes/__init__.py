"""Tests of the Kubernetes platform: its rules without a cluster, its behaviour on a real one."""
