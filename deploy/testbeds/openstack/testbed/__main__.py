"""The command line of `up.sh` and `down.sh`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from . import parts
from .bed import SetupError, TestBed, timestamped
from .layout import Layout
from .processes import ProcessError, Processes
from .software import SoftwareError


def main() -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="testbed", description="A real OpenStack on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up, or add services")
    up.add_argument("--cloud", action="store_true", help="also Placement, Glance, Neutron, Nova and Cinder")
    up.add_argument("--dns", action="store_true", help="also Designate and BIND")
    up.add_argument(
        "--short-lived", action="store_true", help="also a Keystone endpoint whose tokens expire after 15 s"
    )
    up.add_argument("--install", action="store_true", help="install missing software, and start nothing")
    up.add_argument("--fresh", action="store_true", help="start from the snapshot, or from an empty state")
    up.add_argument("--snapshot", action="store_true", help="save the state for --fresh, once everything responds")
    commands.add_parser("down", help="stop every process; the state is kept")
    kill = commands.add_parser("kill", help="kill one service; `up` restarts it")
    kill.add_argument("service", choices=[part.name for part in parts.PARTS] + ["mariadbd"])
    commands.add_parser("status", help="exit with 0 if Keystone runs")
    commands.add_parser("clouds", help="print clouds.yaml as JSON")
    given = parser.parse_args()

    # SIGINT as well: shells start background processes with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    layout = Layout.of_environment()
    report = timestamped(lambda line: print(line, flush=True))
    if given.command == "kill":
        Processes(layout).kill(given.service)
        return 0
    if given.command == "status":
        return 0 if Processes(layout).running("keystone") else 1
    if given.command == "clouds":
        print(json.dumps(layout.clouds()))
        return 0
    chosen = {parts.CLOUD: "cloud", parts.DNS: "dns", parts.SHORT_LIVED: "short_lived"}
    groups = [group for group, flag in chosen.items() if getattr(given, flag, False)]
    bed = TestBed(layout, groups, report)
    try:
        if given.command == "down":
            bed.down()
            return 0
        if given.install:
            bed.install()
            return 0
        bed.up(fresh=given.fresh, snapshot=given.snapshot)
    except (SetupError, ProcessError, SoftwareError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted", file=sys.stderr)
        return 130
    report(f"ready: OS_CLIENT_CONFIG_FILE={layout.state}/clouds.yaml OS_CLOUD=testbed {layout.program('openstack')}")
    return 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


sys.exit(main())
