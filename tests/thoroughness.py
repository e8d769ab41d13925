"""How thoroughly tests kill processes: at every moment once; `make crash` more often, `make test` at some moments only."""

from __future__ import annotations

import os
from typing import Final

#: How often each moment gets its turn.
ROUNDS: Final = int(os.environ.get("ARCHELON_CRASH_ROUNDS", "1"))
#: Of the moments of one kind, in their order, each how-many-th gets it.
STRIDE: Final = int(os.environ.get("ARCHELON_TEST_CRASH_STRIDE", "1"))
