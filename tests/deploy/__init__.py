"""Archelon as it is installed: images, the test bed, Kubernetes."""
