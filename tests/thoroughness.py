"""How often tests kill processes: once at every point; `make crash` more often, `make test` at some points only."""

from __future__ import annotations

import os
from typing import Final

#: Repetitions of each point.
ROUNDS: Final = int(os.environ.get("ARCHELON_TEST_CRASH_ROUNDS", "1"))
#: Of the points of one kind, in order, only every n-th is used.
STRIDE: Final = int(os.environ.get("ARCHELON_TEST_CRASH_STRIDE", "1"))
