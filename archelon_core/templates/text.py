"""Renders text templates (cloud-init, files) in a child process that can do nothing but compute, and not for long.

Documents with a structure are parsed and filled leaf by leaf elsewhere; this is for texts that have none we know. A template
and its parameters go in, text comes out. The template language is Jinja2's, sandboxed, without undefined names and without
loading of others; every value passes an explicit quoting filter (`child` says which and why). Values never become
template code: they travel as JSON beside the template and are not looked at for braces.

The child is a fresh, isolated interpreter of its own session, with an empty environment, no inherited file descriptors, and
limits on time, memory and output, because a sandbox in Python limits what is reached, not what it costs. It starts in some
60 ms; a pool of warm children was decided against, since one rendering's values would share a process with the next's.
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
#: Seconds on the wall beyond the child's own limit, which is of the processor, until it is killed from here: on a busy machine it
#: waits for its turns.
_GRACE = 5.0
# A character takes at most 12 in ASCII JSON (two escapes for one outside the BMP).
_WORST_EXPANSION = 12


class TemplateError(Exception):
    """A template cannot be rendered.

    Attributes:
        name: which template.
        line: its line, from 1; 0 where none can be told.
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
    """What the child may cost.

    Attributes:
        seconds: of the processor, its start of some 0.1 s included; on the wall it may take 5 s more.
        memory: bytes of address space, the interpreter included (some 25 MiB).
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
    """Render templates with the same parameters, in one child that they share the limits of.

    Args:
        templates: names, for error texts, to templates.
        parameters: names to values of JSON's types.
        limits: what the child may cost.
        clock: seconds, monotonic.

    Raises:
        TemplateError: a template has an error or broke a limit. The text names template, line and remedy, and no value.
        TypeError: a parameter's value has no form in JSON.
    """
    limits = limits if limits is not None else TemplateLimits()
    names = list(templates)
    shown = names[0] if len(names) == 1 else "one of " + ", ".join(names)
    request = json.dumps({"templates": list(templates.values()), "parameters": dict(parameters)}).encode("ascii")
    if len(request) > limits.input:
        raise TemplateError(
            shown, 0, f"templates and parameters exceed {limits.input} bytes together; make them smaller"
        )
    answer, status = _run(request, limits, clock)
    try:
        results: list[dict[str, Any]] = json.loads(answer) if status == 0 else []
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
    """The child's answer and exit status (negative: the signal that ended it)."""
    forbid_in_transaction("rendering of templates")
    deadline = clock() + limits.seconds + _GRACE
    most = limits.output * _WORST_EXPANSION + 64 * 1024
    command = [
        *(sys.executable, "-I", "-B", "-X", "utf8", str(_CHILD)),
        *(str(limits.memory), str(limits.seconds), str(limits.output)),
    ]
    # Input by file, so that only the output has to be minded while the child runs.
    with tempfile.TemporaryFile() as given:
        given.write(request)
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603 - a fixed command; what is from outside travels on standard input
            command,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    answer = bytearray()
    with process.stdout as output:
        poll = select.poll()
        poll.register(output, select.POLLIN | select.POLLHUP)
        try:
            while len(answer) <= most:
                remaining = deadline - clock()
                if remaining <= 0 or not poll.poll(remaining * 1000):
                    break
                chunk = os.read(output.fileno(), 64 * 1024)
                if not chunk:
                    # The child closed its output: it ended, or does so at once.
                    return bytes(answer), process.wait(max(deadline - clock(), 0.1))
                answer += chunk
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.returncode is None:
                # Its group still bears its id: it was not waited for.
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
    return f"rendering broke off (status {status}); " + _too_much_memory(limits)


def _too_much_memory(limits: TemplateLimits) -> str:
    return (
        f"rendering needs more than {limits.memory // (1024 * 1024)} MiB of memory; make its loops and values smaller"
    )
