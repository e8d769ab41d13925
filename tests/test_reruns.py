"""`--rerun-failed`: flaky tests are listed and tolerated, repeated failures fail, and pytest's last line counts both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reruns import MOST_FLAKY, MOST_RERUN

ROOT = Path(__file__).parents[1]

_CONFTEST = """
import pytest

from tests import reruns

def pytest_addoption(parser):
    reruns.add_options(parser)

def pytest_configure(config):
    config.pluginmanager.register(reruns)

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.name))
"""
#: A test that fails the first time, which it recognizes by a file.
_FLAKY = """
def test_{name}(request):
    seen = request.config.rootpath / "seen-{name}"
    seen.touch() if not seen.exists() else seen.unlink()
    assert not seen.exists(), "the first time, {name}"
"""
_GOOD = """
def test_good():
    pass
"""
_BAD = """
def test_bad():
    raise ValueError("always bad")
"""


class Checkout:
    """A directory of tests, which `processes` processes run with the plugin."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.processes = 2
        pytester.makeini("[pytest]\naddopts = -rxXfE --strict-markers -p xdist.plugin\n")
        pytester.makeconftest(_CONFTEST)

    def write(self, **files: str) -> None:
        self._pytester.makepyfile(**files)

    def run(self, *options: str) -> pytest.RunResult:
        processes = ["--numprocesses", str(self.processes), "--dist", "loadgroup"]
        done = self._pytester.runpytest_subprocess("--rerun-failed", *processes, *options, timeout=120)
        # The summary line is the last, whatever the result.
        assert " in " in done.outlines[-1]
        assert done.outlines[-1].startswith("=")
        return done


@pytest.fixture
def checkout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # The other plugins are not needed, and slow the start down.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    # These tests may themselves be run by one process of several.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    # With CI set, pytest writes complete messages, and these tests expect shortened ones.
    monkeypatch.delenv("CI", raising=False)
    return Checkout(pytester)


@pytest.fixture(params=[1, 2])
def processes(checkout: Checkout, request: pytest.FixtureRequest) -> None:
    """The test runs once with each number of processes."""
    checkout.processes = 0 if request.param == 1 else request.param


def flaky(done: pytest.RunResult) -> list[str]:
    """The tests that are listed as flaky, at the end."""
    before = [each for each in done.outlines[:-1] if each.startswith("FLAKY ")]
    assert before == done.outlines[-1 - len(before) : -1]
    return [each.removeprefix("FLAKY ") for each in before]


def test_without_failures_nothing_is_printed(checkout: Checkout) -> None:
    checkout.write(test_one=_GOOD)
    done = checkout.run()
    assert done.ret == 0
    assert done.parseoutcomes() == {"passed": 1}
    assert "rerun alone" not in done.stdout.str()


def test_a_test_that_passes_on_rerun_is_flaky_and_its_first_error_is_shown(checkout: Checkout) -> None:
    checkout.write(test_one=_GOOD + _FLAKY.format(name="odd"), test_two=_GOOD)
    done = checkout.run()
    assert done.ret == 0
    assert flaky(done) == ["test_one.py::test_odd"]
    assert done.parseoutcomes() == {"passed": 2, "flaky": 1}
    assert "AssertionError: the first time, odd" in done.stdout.str()
    assert not [each for each in done.outlines if each.startswith("FAILED")]


@pytest.mark.usefixtures("processes")
def test_a_test_that_fails_again_fails(checkout: Checkout) -> None:
    checkout.write(test_one=_BAD + _FLAKY.format(name="odd"), test_two=_GOOD)
    done = checkout.run()
    assert done.ret == 1
    assert flaky(done) == ["test_one.py::test_odd"]
    assert done.parseoutcomes() == {"failed": 1, "passed": 1, "flaky": 1}
    done.stdout.re_match_lines([r"FAILED test_one.py::test_bad", r"-+ Rerun alone -+", r"E +ValueError: always bad"])
    done.stdout.re_match_lines([r"=+ short test summary", r"FAILED test_one.py::test_bad.* ValueError: always bad"])


@pytest.mark.usefixtures("processes")
def test_errors_of_fixtures_count_once(checkout: Checkout) -> None:
    """A test whose fixture fails at teardown had passed; a successful rerun replaces both results."""
    fixture = """
import pytest

@pytest.fixture
def ending(request):
    yield
    seen = request.config.rootpath / "seen"
    if not seen.exists():
        seen.touch()
        raise ValueError("at the end")

@pytest.fixture
def beginning(request):
    seen = request.config.rootpath / "begun"
    if not seen.exists():
        seen.touch()
        raise ValueError("at the beginning")

def test_ends(ending):
    pass

@pytest.mark.parametrize("value", ["a::b@c", "[d]"])
def test_begins(beginning, value):
    pass
"""
    checkout.write(test_one=fixture)
    done = checkout.run()
    assert done.ret == 0
    assert set(flaky(done)) == {"test_one.py::test_ends", "test_one.py::test_begins[a::b@c]"}
    assert done.parseoutcomes() == {"passed": 1, "flaky": 2}


@pytest.mark.usefixtures("processes")
def test_each_is_rerun_in_a_new_process_and_alone(checkout: Checkout) -> None:
    """Neither a used process nor concurrent tests can cause the second failure."""
    there = """
import os

def test_{name}(request):
    log = request.config.rootpath / "log"
    with log.open("a") as stream:
        print("{name}", os.getpid(), os.environ.get("PYTEST_XDIST_WORKER"), file=stream)
    assert log.read_text().count("{name}") > 1
"""
    checkout.write(test_one=there.format(name="first"), test_two=there.format(name="second"))
    assert checkout.run().ret == 0
    rows = [each.split() for each in Path("log").read_text().splitlines()]
    first, again = rows[:2], rows[2:]
    assert {name for name, _, _ in again} == {"first", "second"}
    assert {worker for _, _, worker in again} == {"None"}
    assert not {process for _, process, _ in first} & {process for _, process, _ in again}


def test_a_process_that_dies_is_a_failure(checkout: Checkout) -> None:
    checkout.write(test_one="import os\n\ndef test_dies():\n    os._exit(3)\n", test_two=_FLAKY.format(name="odd"))
    done = checkout.run()
    assert done.ret == 1
    assert done.parseoutcomes()["failed"] >= 1
    assert "The rerun exited with 3" in done.stdout.str()


def test_a_test_that_is_skipped_on_rerun_has_not_passed(checkout: Checkout) -> None:
    text = """
import pytest

def test_skips(request):
    seen = request.config.rootpath / "seen"
    if seen.exists():
        pytest.skip("not now")
    seen.touch()
    raise ValueError
"""
    checkout.write(test_one=text)
    done = checkout.run()
    assert done.ret == 1
    assert flaky(done) == []
    assert done.parseoutcomes() == {"failed": 1}


@pytest.mark.parametrize("number", [MOST_FLAKY, MOST_FLAKY + 1])
def test_few_may_be_flaky(checkout: Checkout, number: int) -> None:
    checkout.write(test_one="".join(_FLAKY.format(name=f"n{each}") for each in range(number)) + _GOOD)
    done = checkout.run()
    assert done.stdout.str().count("FLAKY test_one.py::test_n") == number
    if number == MOST_FLAKY:
        assert done.ret == 0
        assert done.parseoutcomes() == {"passed": 1, "flaky": number}
    else:
        assert done.ret == 1
        assert done.parseoutcomes() == {"passed": 1, "failed": number}
        assert done.outlines[-2] == f"{number} tests are flaky, more than {MOST_FLAKY}: the run fails"


def test_nothing_is_rerun_after_many_failures(checkout: Checkout) -> None:
    number = MOST_RERUN + 1
    checkout.write(test_one="".join(_FLAKY.format(name=f"n{each}") for each in range(number)))
    done = checkout.run()
    assert done.ret == 1
    assert done.parseoutcomes() == {"failed": number}
    assert done.outlines[-2] == f"{number} tests failed, more than {MOST_RERUN}: none was rerun"


def test_a_file_that_cannot_be_read_fails_the_run(checkout: Checkout) -> None:
    checkout.write(test_one=_GOOD, test_two="raise ValueError\n")
    done = checkout.run()
    assert done.ret != 0
    # Each process reads it.
    assert done.parseoutcomes()["errors"] == 2


def test_an_interrupted_run_fails_despite_a_flaky_test(checkout: Checkout) -> None:
    checkout.write(test_one=_FLAKY.format(name="odd"), test_two=_GOOD)
    done = checkout.run("--exitfirst")
    assert done.ret != 0
    assert flaky(done) == []


def test_a_test_bed_that_starts_on_rerun_does_not_excuse_tests_that_lacked_it(checkout: Checkout) -> None:
    text = """
import pytest

from tests import beds

@pytest.fixture(autouse=True)
def refuse(request):
    beds.refuse_where_down(request.node)

@pytest.fixture
def cloud(request):
    seen = request.config.rootpath / "seen"
    with beds.coming_up("cloud", RuntimeError):
        if not seen.exists():
            seen.touch()
            raise RuntimeError("disk full")

@pytest.mark.parametrize("number", range(3))
def test_cloud(cloud, number):
    pass
"""
    checkout.write(test_one=text)
    done = checkout.run()
    assert done.ret == 1
    assert flaky(done) == ["test_one.py::test_cloud[0]"]
    assert done.parseoutcomes() == {"errors": 2, "flaky": 1}
