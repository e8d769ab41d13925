"""Container images without a registry, built from this machine's Python.

    content   contents of the two images: packages, libraries, user, environment, entry point
    root      creates a root file system with this machine's Python and a content
    builders  builds an image of a directory with buildah, podman or docker

The container files in `deploy/containers` build the same images on a registry's Python; a test compares the two.
"""
