"""What the text of an `orchestrator.py` tells about its class."""

from __future__ import annotations

import pytest

from bundles.code import code_problems

NONE = "no class derives from sdk.Orchestrator"
BOTH = "several classes derive from sdk.Orchestrator: A, B"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sdk\nclass A(sdk.Orchestrator): pass\n", None),
        ("import sdk as s\nclass A(s.Orchestrator): pass\n", None),
        ("from sdk import Orchestrator as O\nclass A(O): pass\n", None),
        ("import sdk.orchestrator\nclass A(sdk.orchestrator.Orchestrator): pass\n", None),
        ("from sdk import orchestrator as o\nclass A(o.Orchestrator): pass\n", None),
        ("import sdk\nclass A(sdk.Orchestrator): pass\nclass B(A): pass\nclass C: pass\n", None),
        ("import sdk\ntry:\n  class A(sdk.Orchestrator): pass\nexcept OSError:\n  class B(sdk.Orchestrator): pass\n", None),
        ("from near import Base\nclass A(Base): pass\n", None),
        ("import near\nclass A(near.make()): pass\n", None),
        ("import sdk\nA = type('A', (sdk.Orchestrator,), {})\n", None),
        ("import sdk\ndef f():\n  class A(sdk.Orchestrator): pass\n  return A\nA = f()\n", None),
        ("import sdk, logging\nL = logging.getLogger()\nclass A: pass\n", f"orchestrator.py:3:1: {NONE}"),
        ("", f"orchestrator.py:1:1: {NONE}; write `class Service(sdk.Orchestrator):`, or remove the file"),
        ("import sdk\n\nclass A: pass\n", f"orchestrator.py:3:1: {NONE}"),
        ("import sdk\nclass A(object, metaclass=sdk.X): pass\nclass B(A): pass\n", f"orchestrator.py:2:1: {NONE}"),
        ("import sdk\ndef f():\n  class A(sdk.Orchestrator): pass\n", f"orchestrator.py:1:1: {NONE}"),
        (
            "import sdk\nclass A(sdk.Orchestrator): pass\nclass B(sdk.Orchestrator): pass\n",
            f"orchestrator.py:3:1: {BOTH}; keep one, or derive one of them from the other",
        ),
        ("import sdk\nclass A(sdk.Orchestrator):\n  def f(:\n", "orchestrator.py:3:9: this is not Python: invalid syntax"),
    ],
)  # fmt: skip
def test_a_file_has_one_class(code: str, expected: str | None) -> None:
    found = [str(each)[: len(expected or "")] for each in code_problems(code.encode())]
    assert found == ([expected] if expected else [])


def test_nothing_is_executed() -> None:
    assert code_problems(b"raise SystemExit\nimport sdk\nclass A(sdk.Orchestrator): 1/0\n") == []
