"""Images without a registry: what is in ours, and how one is made out of this machine's own Python.

    content   what the two images hold: rooms, libraries, user, environment, entry point
    root      a root directory with this machine's Python and a content
    builders  buildah, podman, docker: whichever is there makes an image of a directory

The container files in `deploy/containers` make the same images out of a registry's Python; a test compares the two.
"""
