"""Valid names of files in a bundle: those that mean the same file on every system, inside the bundle."""

from __future__ import annotations

import unicodedata

_MAX_DEPTH = 20
#: Limits of a ustar header (POSIX.1-1988): a name of 100 bytes, a directory of 155.
_MAX_NAME = 100
_MAX_DIRECTORY = 155
#: Where Hurtle unpacked a bundle: a `file:` URL in one of its manifests or templates means the bundle by this directory.
_HURTLE_ROOT = "opt/app-root/src/"


def path_of_url(reference: str) -> str | None:
    """The path inside the bundle that a `file:` URL means, from the bundle's root; None for any other reference."""
    if not reference.startswith("file:"):
        return None
    return reference.removeprefix("file:").lstrip("/").removeprefix(_HURTLE_ROOT)


def path_fault(path: str) -> str | None:
    """Why the path cannot name a file in a bundle, or None if it can.

    Args:
        path: relative, with `/` between its parts.
    """
    if not path:
        return "the path is empty"
    if path.startswith("/"):
        return "the path is absolute"
    if "\\" in path or path[1:2] == ":":
        return "the path contains a backslash or a drive"
    if not all(unicodedata.category(character) not in ("Cc", "Cs") for character in path):
        return "the path contains a control character, or is not UTF-8"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "the path contains an empty part, . or .."
    if len(parts) > _MAX_DEPTH:
        return f"the path is deeper than {_MAX_DEPTH} directories"
    directory, _, name = path.rpartition("/")
    if len(name.encode()) > _MAX_NAME or len(directory.encode()) > _MAX_DIRECTORY:
        return f"the name is longer than {_MAX_NAME} bytes, or its directory than {_MAX_DIRECTORY}"
    return None


def collision_key(path: str) -> str:
    """A key that is equal for paths that some file systems do not distinguish, by case or composition of characters."""
    return unicodedata.normalize("NFC", path).casefold()
