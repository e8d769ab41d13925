#!/bin/sh
# Stops what up.sh started; the state is kept.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here exec "${PYTHON:-python3}" -P -m testbed down "$@"
