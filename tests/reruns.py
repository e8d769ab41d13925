"""Reruns failed tests alone, after all others: a test that passes then is flaky, and does not fail the run.

With `--rerun-failed`, another pytest runs the failed tests one after another in a new process. pytest's summary line counts
flaky tests separately, and they are listed above it; a test that fails again is a normal failure. More than a few flaky tests
fail the run too, because they indicate a common cause.
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

#: Flaky tests that a passing run may have.
MOST_FLAKY: Final = 3
#: Failed tests that are rerun; more failures indicate a common cause.
MOST_RERUN: Final = 20
_NAME: Final = "reruns"


def add_options(parser: pytest.Parser) -> None:
    """Add the command line options."""
    group = parser.getgroup("reruns")
    group.addoption("--rerun-failed", action="store_true", help="rerun each failed test at the end, alone")
    group.addoption("--write-reports", metavar="FILE", help="append each test's reports to FILE, a JSON object a line")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("write_reports")
    if path:
        config.pluginmanager.register(_Writer(config, Path(path)))
    # Only in the process that receives the reports of all tests.
    elif config.getoption("rerun_failed") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Reruns(config), _NAME)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # wraps the plugins that were registered before
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    reruns = config.pluginmanager.get_plugin(_NAME)
    if isinstance(reruns, _Reruns):
        reruns.show(terminalreporter)


class _Writer:
    """Writes the test reports, in the process that reruns tests."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        plain = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as stream:
            stream.write(json.dumps(plain) + "\n")


class _Reruns:
    """Records failed tests, reruns them, and corrects the result, in the process that prints it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: dict[str, pytest.TestReport] = {}
        self._flaky: dict[str, list[pytest.TestReport]] = {}
        self._note = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Tests that lack their test bed are not rerun, and fail the run.
        if report.failed and not beds.down_bed_of(report):
            self._failed.setdefault(self._name(report), report)

    @pytest.hookimpl(trylast=True)  # after the teardown of fixtures and other processes
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Do not rerun after an interruption (-x, Ctrl-C).
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or session.shouldfail or not self._failed:
            return
        if len(self._failed) > MOST_RERUN:
            self._note = f"{len(self._failed)} tests failed, more than {MOST_RERUN}: none was rerun"
            return
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, pytest.TerminalReporter)
        reporter.ensure_newline()
        reporter.write_sep("=", f"rerun alone: {len(self._failed)} failed")
        again = self._run(reporter, list(self._failed))
        for name, first in self._failed.items():
            reports = again.get(name, [])
            if [each.when for each in reports if each.passed] == ["setup", "call", "teardown"]:
                self._flaky[name] = reports
                reporter.write_line(f"PASSED {name}", green=True)
            else:
                texts = [each.longreprtext for each in reports if each.longreprtext] or ["The rerun did not finish."]
                first.sections.append(("Rerun alone", "\n".join(texts)))
                reporter.write_line(f"FAILED {name}", red=True)
        if len(self._flaky) > MOST_FLAKY:
            self._note = f"{len(self._flaky)} tests are flaky, more than {MOST_FLAKY}: the run fails"
            return
        left = [each for kind in ("failed", "error") for each in reporter.stats.get(kind, [])]
        if all(self._name(each) in self._flaky for each in left):
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Move flaky tests to their own category, after the errors are printed and before the tests are counted."""
        if not 0 < len(self._flaky) <= MOST_FLAKY:
            return
        stats = terminalreporter.stats
        for kind in ("failed", "error", "passed"):
            # In place, because other plugins hold the list.
            found = stats.get(kind, [])
            found[:] = [each for each in found if self._name(each) not in self._flaky]
            if not found:
                stats.pop(kind, None)
        stats["flaky"] = [each for reports in self._flaky.values() for each in reports if each.when == "call"]

    def show(self, reporter: pytest.TerminalReporter) -> None:
        """List the flaky tests."""
        for name in self._flaky:
            reporter.write_line(f"FLAKY {name}", yellow=True)
        if self._note:
            reporter.write_line(self._note, red=True)

    def _name(self, report: pytest.TestReport | pytest.CollectReport) -> str:
        """Return the node id without pytest-xdist's group suffix; tests/conftest.py assigns a group to every test."""
        grouped = hasattr(report, "node") and self._config.getoption("dist", "no") == "loadgroup"
        return report.nodeid.rpartition("@")[0] if grouped else report.nodeid

    def _run(self, reporter: pytest.TerminalReporter, names: Sequence[str]) -> Mapping[str, list[pytest.TestReport]]:
        """Rerun tests, and return each one's reports; none for a test that did not finish."""
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
            reporter.write_line(f"The rerun exited with {done.returncode}:\n{done.stdout}{done.stderr}", red=True)
        found: dict[str, list[pytest.TestReport]] = {}
        for each in plain:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=each)
            assert isinstance(report, pytest.TestReport)
            found.setdefault(report.nodeid, []).append(report)
        return found
