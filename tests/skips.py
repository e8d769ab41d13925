"""Lists skipped tests by reason after the last test, with the command that runs them.

`--quick`, which `make test` passes, skips tests that need a test bed, even if one could be started, and those marked slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Final

import pytest

#: Reason by marker.
_LEFT_OUT: Final[Mapping[str, str]] = {
    "openstack": "needs OpenStack",
    "kubernetes": "needs Kubernetes",
    "slow": "is slow",
}
_IS_LEFT_OUT: Final = pytest.StashKey[bool]()
_PREFIX: Final = "Skipped: "


def add_options(parser: pytest.Parser) -> None:
    """Add the command line options."""
    parser.addoption("--quick", action="store_true", help="skip tests that need a test bed or are marked slow")


def to_run(reason: str, command: str) -> str:
    """Return the reason of a skip, with the command that runs the test."""
    return f"{reason}; to run: {command}"


def leave_out(items: Sequence[pytest.Item]) -> None:
    """Skip the tests that `--quick` leaves out."""
    for item in items:
        marker = next((each for each in _LEFT_OUT if item.get_closest_marker(each) is not None), None)
        if marker is not None:
            item.stash[_IS_LEFT_OUT] = True
            reason = to_run(_LEFT_OUT[marker], f"make test-all PYTEST_ARGS='-m {marker}'")
            item.add_marker(pytest.mark.skip(reason=reason))


def was_left_out(item: pytest.Item) -> bool:
    """Return whether a test is skipped because of `--quick`, and not because the machine lacks something."""
    return item.stash.get(_IS_LEFT_OUT, False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield
    reports = terminalreporter.stats.get("skipped", [])
    if not reports:
        return
    terminalreporter.write_sep("=", "skipped, by reason")
    reasons = Counter(each.longrepr[2].removeprefix(_PREFIX) for each in reports)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number:5} {'test' if number == 1 else 'tests'}: {reason}")
