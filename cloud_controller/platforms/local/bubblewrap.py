"""bubblewrap's command line and its input in memory files; standard library only, since every supervisor imports it.

Possible secrets (the process' environment and content of its description) are never in an argument.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Path in the sandbox of the file with the process' environment.
ENVIRONMENT = "/run/environment"


def in_memory(content: str | bytes) -> int:
    """Return the descriptor of a memory file with this content, positioned at its start and not inheritable."""
    descriptor = os.memfd_create("sandbox")
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content if isinstance(content, bytes) else content.encode(errors="surrogateescape"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def command_line(program: str, command: Sequence[str], options: int, environment: int) -> list[str]:
    """Return the argument list that runs a command in a sandbox.

    Args:
        program: path of bubblewrap.
        options, environment: descriptors of the files with NUL-terminated options, and with the content of `ENVIRONMENT`.
    """
    environment_file = ["--perms", "0600", "--file", str(environment), ENVIRONMENT]
    return [program, *environment_file, "--args", str(options), "--", *command]
