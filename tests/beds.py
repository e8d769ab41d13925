"""A test bed that does not come up is one failure, told once: every other test that needs it fails at once, and is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

#: Of this process: the test beds that did not come up, by the fixture through which tests have them.
_DOWN: Final[set[str]] = set()
_PROPERTY: Final = "test bed that is down"


class BedIsDownError(pytest.fail.Exception):
    """A test needs a test bed of which was said already that it did not come up."""


@contextmanager
def coming_up(fixture: str, *expected: type[Exception]) -> Iterator[None]:
    """Around all that brings a test bed up, again too: an error is told in full, and then no more.

    Args:
        fixture: through which tests have the bed.
        expected: errors whose text says all; of others the traceback is shown.
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
    """Fail a test whose test bed did not come up, before any of its fixtures is asked for."""
    for fixture in sorted(_DOWN.intersection(getattr(item, "fixturenames", ()))):
        item.user_properties.append((_PROPERTY, fixture))
        raise BedIsDownError(f"the test bed of {fixture} did not come up, as an earlier test says", pytrace=False)


@contextmanager
def counted(reporter: pytest.TerminalReporter) -> Generator[None]:
    """Around the summary: tests that only lack their test bed are a line together, and errors in the count."""
    told, silent = [], []
    for report in reporter.stats.get("error", []):
        (silent if down_bed_of(report) else told).append(report)
    if not silent:
        yield
        return
    reporter.stats["error"] = told
    yield
    reporter.stats["error"] = told + silent
    for bed, number in Counter(map(down_bed_of, silent)).items():
        reporter.write_line(
            f"ERROR {number} more tests that need the test bed of {bed}, which did not come up: see above"
        )


def down_bed_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The test bed whose absence alone made a test fail, by its fixture; empty where it ran, or is the first to say so."""
    if not isinstance(report, pytest.TestReport) or report.when != "setup":
        return ""
    return next((str(value) for name, value in report.user_properties if name == _PROPERTY), "")
