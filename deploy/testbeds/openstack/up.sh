#!/bin/sh
# Brings up a real OpenStack on this machine; see README.md or up.sh --help.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here exec "${PYTHON:-python3}" -P -m testbed up "$@"
