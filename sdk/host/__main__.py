"""Run a host in the current directory until SIGTERM: `python -m sdk.host shared` or `forked`; see the package."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the kind of host that the command line names. Raises SystemExit."""
    if sys.argv[1:] == ["shared"]:
        from . import shared

        shared.main()
    elif sys.argv[1:] == ["forked"]:
        from . import forked

        forked.main()
    else:
        raise SystemExit("usage: python -m sdk.host shared|forked")


if __name__ == "__main__":
    main()
