"""keys.py DIRECTORY…: creates a staged and a primary Fernet key, as Keystone's commands do, but without loading Keystone."""

import base64
import os
import pathlib
import sys

os.umask(0o077)
for directory in sys.argv[1:]:
    for name in ("0", "1"):
        key = pathlib.Path(directory, name)
        if not key.exists():
            key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
