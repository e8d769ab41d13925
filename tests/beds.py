"""A test bed that does not come up is reported once; every other test that needs it fails immediately, and is only counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

#: The test beds that did not come up in this process, by fixture name.
_DOWN: Final[set[str]] = set()
_PROPERTY: Final = "test bed that is down"


class BedIsDownError(pytest.fail.Exception):
    """A test needs a test bed whose failure has already been reported."""


@contextmanager
def coming_up(fixture: str, *expected: type[Exception]) -> Iterator[None]:
    """Wrap the start or restart of a test bed: report an error in full once, and mark the bed as down.

    Args:
        fixture: name of the fixture that provides the bed.
        expected: errors whose text is sufficient; for others the traceback is shown.
    """
    try:
        yield
    except (Exception, pytest.fail.Exception) as problem:  # the second is what pytest-timeout raises
        _DOWN.add(fixture)
        if isinstance(problem, expected):
            raise pytest.fail.Exception(
                f"the test bed of {fixture} did not come up: {problem}", pytrace=False
            ) from None
        raise


def refuse_where_down(item: pytest.Item) -> None:
    """Fail a test whose test bed did not come up, before any of its fixtures is set up."""
    for fixture in sorted(_DOWN.intersection(getattr(item, "fixturenames", ()))):
        item.user_properties.append((_PROPERTY, fixture))
        raise BedIsDownError(f"the test bed of {fixture} did not come up; an earlier test shows why", pytrace=False)


@contextmanager
def counted(reporter: pytest.TerminalReporter) -> Generator[None]:
    """Wrap the summary: tests that only lack their test bed share one line, and count as errors."""
    errors = reporter.stats.get("error", [])
    without_bed = [report for report in errors if down_bed_of(report)]
    if not without_bed:
        yield
        return
    shown = [report for report in errors if not down_bed_of(report)]
    reporter.stats["error"] = shown
    yield
    reporter.stats["error"] = shown + without_bed
    for bed, number in Counter(map(down_bed_of, without_bed)).items():
        reporter.write_line(
            f"ERROR {number} more tests that need the test bed of {bed}, which did not come up: see above"
        )


def down_bed_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the fixture name of the test bed whose absence failed the test; empty for the first report and all other tests."""
    if not isinstance(report, pytest.TestReport) or report.when != "setup":
        return ""
    return next((str(value) for name, value in report.user_properties if name == _PROPERTY), "")
