#!/bin/sh
# Ends what up.sh started; the state stays.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here exec "${PYTHON:-python3}" -P -m testbed down "$@"
