"""Skipped tests are listed by reason, with the command that runs them; `--quick` skips test beds and slow tests, in CI too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.skips import to_run

ROOT = Path(__file__).parents[1]

_CONFTEST = """
from tests import skips

def pytest_addoption(parser):
    skips.add_options(parser)

def pytest_configure(config):
    config.pluginmanager.register(skips)

def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        skips.leave_out(items)
"""
_TESTS = f"""
import pytest

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.slow
@pytest.mark.openstack
def test_cloud():
    pass

@pytest.mark.parametrize("number", range(3))
def test_curl(number):
    pytest.skip({to_run("curl is missing", "apt-get install curl")!r})

@pytest.mark.skipif(True, reason={to_run("Node is missing", "apt-get install nodejs")!r})
def test_node():
    pass

def test_rest():
    pass
"""


@pytest.fixture
def checkout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = -rxXfE -p xdist.plugin\nmarkers =\n    slow\n    openstack\n")
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(_TESTS)
    return pytester


@pytest.mark.parametrize("processes", [0, 1])
def test_skipped_tests_are_listed_by_reason(checkout: pytest.Pytester, processes: int) -> None:
    done = checkout.runpytest_subprocess("--numprocesses", str(processes), timeout=120)
    assert done.parseoutcomes() == {"passed": 3, "skipped": 4}
    assert done.outlines[-3:-1] == [
        "    3 tests: curl is missing; to run: apt-get install curl",
        "    1 test: Node is missing; to run: apt-get install nodejs",
    ]


def test_quick_skips_test_beds_and_slow_tests(checkout: pytest.Pytester) -> None:
    done = checkout.runpytest_subprocess("--quick", timeout=120)
    assert done.parseoutcomes() == {"passed": 1, "skipped": 6}
    assert {
        "    1 test: is slow; to run: make test-all PYTEST_ARGS='-m slow'",
        "    1 test: needs OpenStack; to run: make test-all PYTEST_ARGS='-m openstack'",
    } < set(done.outlines[-5:-1])


def test_without_skips_nothing_is_listed(checkout: pytest.Pytester) -> None:
    done = checkout.runpytest_subprocess("-k", "test_rest", timeout=120)
    assert "by reason" not in done.stdout.str()


def test_tests_that_quick_skips_are_not_failures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run this project's own tests with ARCHELON_TEST_REQUIRE_ALL, and a cloud and a cluster that do not respond."""
    for name, value in {"ARCHELON_TEST_REQUIRE_ALL": "1", "OS_CLOUD": "none", "KUBECONFIG": "/none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    files = ["tests/test_openstack.py", "tests/deploy/test_test_bed.py"]
    done = pytester.runpytest_subprocess("--quick", "-p", "no:cacheprovider", *files, timeout=120)
    assert done.ret == 0
    assert set(done.parseoutcomes()) == {"skipped"}
