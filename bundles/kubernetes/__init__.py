"""Templates of Kubernetes objects, as far as no cluster and no region's policy is needed to read them."""
