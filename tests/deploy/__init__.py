"""Installation: images, test beds, Kubernetes."""
