"""A test that failed runs once more when all others have ended, alone: one that passes then is flaky, and does not fail the run.

`--rerun-failed` asks for it. Another pytest runs the failed tests, one after another and with nothing beside them, in a process
that none of the others has used. Flaky tests are counted as such in pytest's closing line and listed above it; what failed again
is a failure like any other. More than a few flaky tests fail the run, too: what is wrong then is not the tests alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests import beds

#: Of flaky tests in a run that passes.
MOST_FLAKY: Final = 3
#: Of failed tests that are run again: where there are more, something is broken that concerns them all.
MOST_RERUN: Final = 20
_NAME: Final = "reruns"


def add_options(parser: pytest.Parser) -> None:
    """What tests/conftest.py offers on the command line."""
    group = parser.getgroup("reruns")
    group.addoption("--rerun-failed", action="store_true", help="run each failed test once more at the end, alone")
    group.addoption("--write-reports", metavar="FILE", help="append each test's reports to FILE, a JSON object a line")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("write_reports")
    if path:
        config.pluginmanager.register(_Writer(config, Path(path)))
    # Of several processes, the one that hears of all tests.
    elif config.getoption("rerun_failed") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Reruns(config), _NAME)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around those that were there before
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    reruns = config.pluginmanager.get_plugin(_NAME)
    if isinstance(reruns, _Reruns):
        reruns.show(terminalreporter)


class _Writer:
    """In the process that runs tests again: hands over what became of them."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        plain = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as stream:
            stream.write(json.dumps(plain) + "\n")


class _Reruns:
    """In the process that shows the results: notes what fails, has it run again, and settles what counts."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: dict[str, pytest.TestReport] = {}
        self._flaky: dict[str, list[pytest.TestReport]] = {}
        self._note = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Tests that lack their test bed have not failed themselves, and fail the run.
        if report.failed and not beds.down_bed_of(report):
            self._failed.setdefault(self._name(report), report)

    @pytest.hookimpl(trylast=True)  # when fixtures are gone, and other processes
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A run that was broken off (-x, Ctrl-C) is over.
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or session.shouldfail or not self._failed:
            return
        if len(self._failed) > MOST_RERUN:
            self._note = f"{len(self._failed)} tests failed, more than {MOST_RERUN}: none was run again"
            return
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, pytest.TerminalReporter)
        reporter.ensure_newline()
        reporter.write_sep("=", f"once more, alone: {len(self._failed)} failed")
        again = self._run(reporter, list(self._failed))
        for name, first in self._failed.items():
            reports = again.get(name, [])
            if [each.when for each in reports if each.passed] == ["setup", "call", "teardown"]:
                self._flaky[name] = reports
                reporter.write_line(f"PASSED {name}", green=True)
            else:
                texts = [each.longreprtext for each in reports if each.longreprtext] or ["It came to no end."]
                first.sections.append(("Once more, alone", "\n".join(texts)))
                reporter.write_line(f"FAILED {name}", red=True)
        if len(self._flaky) > MOST_FLAKY:
            self._note = f"{len(self._flaky)} tests are flaky, more than {MOST_FLAKY}: the run fails"
            return
        left = [each for kind in ("failed", "error") for each in reporter.stats.get(kind, [])]
        if all(self._name(each) in self._flaky for each in left):
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What comes after the errors were shown, and before anything is counted."""
        if not 0 < len(self._flaky) <= MOST_FLAKY:
            return
        stats = terminalreporter.stats
        for kind in ("failed", "error", "passed"):
            # In place: others have the list, too.
            found = stats.get(kind, [])
            found[:] = [each for each in found if self._name(each) not in self._flaky]
            if not found:
                stats.pop(kind, None)
        stats["flaky"] = [each for reports in self._flaky.values() for each in reports if each.when == "call"]

    def show(self, reporter: pytest.TerminalReporter) -> None:
        """Name the flaky tests."""
        for name in self._flaky:
            reporter.write_line(f"FLAKY {name}", yellow=True)
        if self._note:
            reporter.write_line(self._note, red=True)

    def _name(self, report: pytest.TestReport | pytest.CollectReport) -> str:
        """Node id, without the group that pytest-xdist appends; tests/conftest.py puts every test into one."""
        grouped = hasattr(report, "node") and self._config.getoption("dist", "no") == "loadgroup"
        return report.nodeid.rpartition("@")[0] if grouped else report.nodeid

    def _run(self, reporter: pytest.TerminalReporter, names: Sequence[str]) -> Mapping[str, list[pytest.TestReport]]:
        """Each test's reports; none of one that did not come to its end."""
        with tempfile.TemporaryDirectory(prefix="archelon-reruns-") as directory:
            reports = Path(directory) / "reports"
            reports.touch()
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", "0"]
            done = subprocess.run(
                [*command, "--write-reports", str(reports), *names],
                cwd=self._config.rootpath, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            plain: list[dict[str, Any]] = [json.loads(each) for each in reports.read_text().splitlines()]
        if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            reporter.write_line(f"It ended with {done.returncode}:\n{done.stdout}{done.stderr}", red=True)
        found: dict[str, list[pytest.TestReport]] = {}
        for each in plain:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=each)
            assert isinstance(report, pytest.TestReport)
            found.setdefault(report.nodeid, []).append(report)
        return found
