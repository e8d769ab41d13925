"""Renders text templates (cloud-init, files) in a child process with limits on time and memory.

Structured documents are parsed and filled leaf by leaf elsewhere; this is for texts of unknown structure. The template language
is sandboxed Jinja2, without undefined names and without loading of other templates; every value passes an explicit quoting filter
(see `child`). Values never become template code: they are JSON beside the template and are not searched for braces.

The child is a fresh, isolated interpreter in its own session, with an empty environment, no inherited file descriptors, and
limits on time, memory and output, because a sandbox in Python limits access, not cost. It starts in some 60 ms; a pool of warm
children was decided against, since one rendering's values would share a process with the next one's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..transactions import forbid_in_transaction

_CHILD = Path(__file__).with_name("child.py")
#: Wall-clock seconds beyond the child's own limit on processor time, after which the parent kills it: on a busy machine it has to
#: wait for the processor.
_GRACE = 5.0
# A character takes at most 12 in ASCII JSON (two escapes for one outside the BMP).
_WORST_EXPANSION = 12


class TemplateError(Exception):
    """A template cannot be rendered.

    Attributes:
        name: which template.
        line: its line, from 1; 0 if unknown.
        reason: what is wrong and what to do, without any value.
    """

    def __init__(self, name: str, line: int, reason: str) -> None:
        place = f"template {name!r}, line {line}" if line else f"template {name!r}"
        super().__init__(f"{place}: {reason}")
        self.name = name
        self.line = line
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class TemplateLimits:
    """Limits on the child.

    Attributes:
        seconds: processor time, including some 0.1 s for its start; the wall-clock limit is 5 s more.
        memory: bytes of address space, including the interpreter (some 25 MiB).
        output: characters of all texts together.
        input: bytes of all templates and parameters together.
    """

    seconds: float = 1.0
    memory: int = 64 * 1024 * 1024
    output: int = 1024 * 1024
    input: int = 1024 * 1024


def render(
    template: str, parameters: Mapping[str, Any], *, name: str = "text", limits: TemplateLimits | None = None
) -> str:
    """Render one template; see `render_all`."""
    return render_all({name: template}, parameters, limits=limits)[name]


def render_all(
    templates: Mapping[str, str],
    parameters: Mapping[str, Any],
    *,
    limits: TemplateLimits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Render templates with the same parameters, in one child whose limits they share.

    Args:
        templates: names, for error texts, to templates.
        parameters: names to JSON values.
        limits: limits on the child.
        clock: seconds, monotonic.

    Raises:
        TemplateError: a template has an error or exceeds a limit. The text names template, line and remedy, but no value.
        TypeError: a parameter's value cannot be JSON.
    """
    limits = limits if limits is not None else TemplateLimits()
    names = list(templates)
    shown = names[0] if len(names) == 1 else "one of " + ", ".join(names)
    request = json.dumps({"templates": list(templates.values()), "parameters": dict(parameters)}).encode("ascii")
    if len(request) > limits.input:
        raise TemplateError(
            shown, 0, f"templates and parameters exceed {limits.input} bytes together; make them smaller"
        )
    output, status = _run(request, limits, clock)
    try:
        results: list[dict[str, Any]] = json.loads(output) if status == 0 else []
    except ValueError:
        results = []
    texts: dict[str, str] = {}
    for name, result in zip(names, results, strict=False):
        if "error" in result:
            raise TemplateError(name, int(result["line"]), _reason(str(result["error"]), limits))
        texts[name] = str(result["text"])
    if len(texts) < len(names):
        raise TemplateError(shown, 0, _ended(status, limits))
    return texts


def _run(request: bytes, limits: TemplateLimits, clock: Callable[[], float]) -> tuple[bytes, int]:
    """The child's output and exit status (negative: the signal that ended it)."""
    forbid_in_transaction("rendering of templates")
    deadline = clock() + limits.seconds + _GRACE
    output_limit = limits.output * _WORST_EXPANSION + 64 * 1024
    command = [
        *(sys.executable, "-I", "-B", "-X", "utf8", str(_CHILD)),
        *(str(limits.memory), str(limits.seconds), str(limits.output)),
    ]
    # Input by file, so that only the output has to be polled while the child runs.
    with tempfile.TemporaryFile() as stdin:
        stdin.write(request)
        stdin.seek(0)
        process = subprocess.Popen(  # noqa: S603 - a fixed command; untrusted data goes through standard input
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    received = bytearray()
    with process.stdout as output:
        poll = select.poll()
        poll.register(output, select.POLLIN | select.POLLHUP)
        try:
            while len(received) <= output_limit:
                remaining = deadline - clock()
                if remaining <= 0 or not poll.poll(remaining * 1000):
                    break
                chunk = os.read(output.fileno(), 64 * 1024)
                if not chunk:
                    # The child closed its output: it has exited, or is about to.
                    return bytes(received), process.wait(max(deadline - clock(), 0.1))
                received += chunk
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.returncode is None:
                # It was not waited for, so its group still has its id.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return b"", -signal.SIGKILL


def _reason(error: str, limits: TemplateLimits) -> str:
    if error == "memory":
        return _too_much_memory(limits)
    if error == "output":
        return f"the text exceeds {limits.output} characters; make it smaller"
    return error


def _ended(status: int, limits: TemplateLimits) -> str:
    if -status in (signal.SIGPROF, signal.SIGXCPU, signal.SIGKILL):
        return f"rendering took longer than {limits.seconds:g} s; make its loops shorter"
    return f"rendering failed (status {status}); " + _too_much_memory(limits)


def _too_much_memory(limits: TemplateLimits) -> str:
    return (
        f"rendering needs more than {limits.memory // (1024 * 1024)} MiB of memory; make its loops and values smaller"
    )
