"""The first process of an orchestrator's container: finds the bundle, and execs `sdk.serve`.

    ARCHELON_BUNDLE_ARCHIVE   mounted archive of the bundle; it is unpacked as untrusted input
    ARCHELON_BUNDLE_DIGEST    expected SHA-256 of the archive; without it, the archive is not checked
    ARCHELON_BUNDLE           directory of a bundle that is part of the image; used without an archive
    ARCHELON_SCRATCH          directory to unpack into; it and the one for temporary files must be writable

A container that restarts in the same pod finds the bundle unpacked.

The kernel ignores a signal to a container's first process unless that process has a handler. So SIGTERM is blocked from here on,
across the exec, until `sdk.serve` has a handler: the end of a pod never waits for its grace period.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ENV_ARCHIVE: Final = "ARCHELON_BUNDLE_ARCHIVE"
ENV_DIGEST: Final = "ARCHELON_BUNDLE_DIGEST"
ENV_BUNDLE: Final = "ARCHELON_BUNDLE"
ENV_SCRATCH: Final = "ARCHELON_SCRATCH"
_SCRATCH: Final = "/var/lib/archelon"


def bundle_of(environment: Mapping[str, str]) -> Path:
    """Return the directory of the bundle to serve, and unpack an archive. Raises ValueError."""
    archive = environment.get(ENV_ARCHIVE)
    if not archive:
        directory = environment.get(ENV_BUNDLE, "")
        if not directory or not Path(directory).is_dir():
            raise ValueError(
                f"no bundle: mount an archive and name it in {ENV_ARCHIVE}, "
                f"or build an image of a bundle with `archelon build`"
            )
        return Path(directory)
    # A local import: an image that contains its bundle starts without the archive reader.
    import bundles

    try:
        data = Path(archive).read_bytes()
        digest = bundles.digest_of(data)
        target = Path(environment.get(ENV_SCRATCH, _SCRATCH)) / f"bundle-{digest}"
        return bundles.unpack(data, target, digest=environment.get(ENV_DIGEST) or digest)
    except OSError as error:
        raise ValueError(
            f"{error.filename or archive}: {error.strerror}; mount the archive, and a writable directory to unpack it"
        ) from error
    except bundles.BundleError as error:
        raise ValueError(f"{archive}: {error}") from error


def main(
    environment: Mapping[str, str] | None = None,
    *,
    become: Callable[[str, list[str]], object] = os.execv,
) -> None:
    """Exec the orchestrator. Raises SystemExit.

    Args:
        become: replaces this process by a program with arguments.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        bundle = bundle_of(os.environ if environment is None else environment)
    except ValueError as error:
        raise SystemExit(f"sdk.runtime.container: {error}") from None
    if signal.SIGTERM in signal.sigpending():
        raise SystemExit(0)
    become(sys.executable, [sys.executable, "-m", "sdk.serve", str(bundle)])


if __name__ == "__main__":
    main()
