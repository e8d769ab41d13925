"""`up.sh` and `down.sh`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from . import parts
from .bringing_up import BringingUp, SetUpError, measured
from .layout import Layout
from .processes import ProcessError, Processes
from .software import SoftwareError


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="testbed", description="A real OpenStack on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up, or add to what is up")
    up.add_argument("--cloud", action="store_true", help="also Placement, Glance, Neutron, Nova and Cinder")
    up.add_argument("--dns", action="store_true", help="also Designate and BIND")
    up.add_argument(
        "--short-lived", action="store_true", help="also a second door to Keystone: its tokens live seconds"
    )
    up.add_argument("--install", action="store_true", help="install what is lacking, and start nothing")
    up.add_argument("--fresh", action="store_true", help="from the snapshot, or from nothing")
    up.add_argument("--snapshot", action="store_true", help="keep the state for --fresh, once everything answers")
    commands.add_parser("down", help="end every process; the state stays")
    kill = commands.add_parser("kill", help="end one service as a crash does; `up` starts it again")
    kill.add_argument("service", choices=[part.name for part in parts.PARTS] + ["mariadbd"])
    commands.add_parser("status", help="exit with 0 where Keystone runs")
    commands.add_parser("clouds", help="print its clouds.yaml as JSON")
    given = parser.parse_args()

    # Also SIGINT: a shell starts what it runs in the background with that one ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    layout = Layout.of_environment()
    say = measured(lambda line: print(line, flush=True))
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
    bed = BringingUp(layout, groups, say)
    try:
        if given.command == "down":
            bed.down()
            return 0
        if given.install:
            bed.install()
            return 0
        bed.up(fresh=given.fresh, snapshot=given.snapshot)
    except (SetUpError, ProcessError, SoftwareError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted", file=sys.stderr)
        return 130
    say(f"ready: OS_CLIENT_CONFIG_FILE={layout.state}/clouds.yaml OS_CLOUD=testbed {layout.program('openstack')}")
    return 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # What follows is the clean-up, which a second one must not cut off.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


sys.exit(main())
