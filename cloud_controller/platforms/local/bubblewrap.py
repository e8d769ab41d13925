"""bubblewrap's command line, and what it is told in files in memory; standard library only, since every supervisor imports it.

What could be secret, which is the environment of the process and what its description says, is in no argument.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Where a process' environment is found in its sandbox, by who started that.
ENVIRONMENT = "/run/environment"


def in_memory(text: str) -> int:
    """The descriptor of a file in memory, to be read from its beginning; not inherited, unless it is made so."""
    descriptor = os.memfd_create("sandbox")
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(text.encode(errors="surrogateescape"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def command_line(program: str, command: Sequence[str], options: int, environment: int) -> list[str]:
    """The argument list that runs a command in a sandbox.

    Args:
        program: path of bubblewrap.
        options, environment: descriptors of files with options, each ended by a NUL, and with what goes to `ENVIRONMENT`.
    """
    carried = ["--perms", "0600", "--file", str(environment), ENVIRONMENT]
    return [program, *carried, "--args", str(options), "--", *command]
