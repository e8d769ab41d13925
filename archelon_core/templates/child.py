"""The child program of `text`: reads one JSON document from standard input, renders, writes one to standard output.

Run as a script by an isolated interpreter (`python -I`), so it uses only the standard library and Jinja2. It sets its own limits
before it reads untrusted input, since a function between fork and exec would not be safe in a threaded parent; hard limits cannot
be raised again. Modules that Jinja2 loads lazily are loaded first: no file is opened later.

A value reaches the text through a quoting filter only (`{{ name | shell }}`). Filters return `Quoted`, and the result of any
other expression, except integers, is refused: forgetting to quote is an error, not a vulnerability.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import os
import re
import resource
import shlex
import signal
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_TEMPLATE = "<template>"
_PLAIN = re.compile(r"(?:[A-Za-z0-9._:/@+][A-Za-z0-9._:/@+,-]*)?")
_YAML_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Quoted(str):
    """Text that a quoting filter made safe. Any further operation on it returns a plain `str` again."""

    __slots__ = ()


class QuotingError(Exception):
    """A value does not fit its place, or was not quoted. The text never contains the value."""


class OutputTooLargeError(Exception):
    """The text exceeds its limit."""


def shell(value: Any) -> Quoted:
    """One word for a POSIX shell; for a list, one word each. Write it without quotes around."""
    if isinstance(value, list):
        return Quoted(" ".join(shell(member) for member in value))
    text = _scalar(value, "shell")
    if "\0" in text:
        raise QuotingError("a shell word cannot contain a NUL character; use base64")
    return Quoted(shlex.quote(text))


def as_json(value: Any) -> Quoted:
    """Any value as JSON on one line, also safe inside a `<script>` element."""
    _require(value)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise QuotingError("the value cannot be JSON; give text, numbers, lists and maps") from None
    return Quoted(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def yaml(value: Any) -> Quoted:
    """Any value as YAML 1.1 or 1.2 in flow style on one line. Write it without quotes around."""
    _require(value)
    return Quoted(_yaml(value))


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        digits, exponent, power = repr(value).partition("e")
        # YAML 1.1 reads 1e+16 as text; with a point it is a number.
        return (digits if "." in digits else digits + ".0") + exponent + power
    if isinstance(value, str):
        quoted = json.dumps(_text(value), ensure_ascii=False)
        return _YAML_UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(member) for member in value) + "]"
    if isinstance(value, Mapping):
        # The long form of a key, since a short one is limited to 1,024 characters.
        return "{" + ", ".join(f"? {_yaml(str(key))} : {_yaml(member)}" for key, member in value.items()) + "}"
    raise QuotingError("the value cannot be YAML; give text, numbers, lists and maps")


def ini(value: Any) -> Quoted:
    """The value of one line `key = value`; values that such a line cannot contain are refused."""
    text = _scalar(value, "ini")
    if any(not character.isprintable() for character in text) or text != text.strip():
        raise QuotingError(
            "the value of an INI line cannot contain line ends, control characters or outer spaces; use base64"
        )
    if text[:1] in ("#", ";", '"', "'", "[") or " #" in text or " ;" in text or text.endswith("\\"):
        raise QuotingError(
            "the value would read as a comment, a quotation or a continuation in an INI file; use base64"
        )
    return Quoted(text)


def plain(value: Any) -> Quoted:
    """A value that is safe anywhere as it is: letters, digits and `._:/@+,-`, not beginning with `-` or `,`."""
    text = _scalar(value, "plain")
    if not _PLAIN.fullmatch(text):
        raise QuotingError(
            "the value contains more than letters, digits and ._:/@+,- (or begins with - or ,); use another filter"
        )
    return Quoted(text)


def as_base64(value: Any) -> Quoted:
    """The UTF-8 bytes of a text in base64, safe anywhere."""
    return Quoted(base64.b64encode(_scalar(value, "base64").encode("utf-8")).decode("ascii"))


def url(value: Any) -> Quoted:
    """One part of a URL: everything but letters, digits and `_.-~` is percent-encoded."""
    return Quoted(urllib.parse.quote(_scalar(value, "url"), safe=""))


def as_html(value: Any) -> Quoted:
    """Text, or a quoted attribute value, for HTML and XML."""
    return Quoted(html.escape(_scalar(value, "html")))


FILTERS: Mapping[str, Callable[[Any], Quoted]] = {
    "base64": as_base64,
    "html": as_html,
    "ini": ini,
    "json": as_json,
    "plain": plain,
    "shell": shell,
    "url": url,
    "yaml": yaml,
}
#: These add their own quotes.
_WITH_QUOTES = frozenset({"json", "shell", "yaml"})


def _require(value: Any) -> None:
    if type(value).__name__ == "StrictUndefined":
        str(value)  # Raises UndefinedError with the name.


def _scalar(value: Any, name: str) -> str:
    _require(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise QuotingError(f"the filter {name} takes text or a number; use json or yaml for lists and maps")
    return _text(value)


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise QuotingError("the value contains half a surrogate pair, which is not text; correct the value") from None
    return value


def _finalize(value: Any) -> Any:
    if isinstance(value, Quoted) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    _require(value)
    raise QuotingError(
        f"a value is inserted without quoting; end the expression with one of: {', '.join(sorted(FILTERS))}"
    )


class Renderer:
    """Renders templates with one set of parameters.

    Args:
        parameters: names to values, parsed from JSON.
        limit: maximum characters of all texts together.
    """

    def __init__(self, parameters: Mapping[str, Any], limit: int) -> None:
        import jinja2
        import jinja2.debug
        import jinja2.sandbox

        self._jinja = jinja2
        self._environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, finalize=_finalize, keep_trailing_newline=True, autoescape=False
        )
        for name in ("tojson", "xmlattr", "urlize", "pprint", "safe", "escape", "e", "forceescape"):
            # They quote for an unspecified place, or print Python; our filters name the place.
            self._environment.filters.pop(name, None)
        self._environment.filters.update(FILTERS)
        for name in ("lipsum", "cycler", "joiner"):
            self._environment.globals.pop(name, None)
        self._parameters = parameters
        self._left = limit

    def render(self, source: str) -> dict[str, Any]:
        """`{"text": …}`, or `{"error": …, "line": …}` with a line of the template, 0 if unknown."""
        jinja2 = self._jinja
        try:
            self._check_quotes(source)
            template = self._environment.from_string(source)
            return {"text": "".join(self._counted(template.generate(self._parameters)))}
        except jinja2.TemplateSyntaxError as error:
            return {"error": f"{error.message}; correct the template", "line": error.lineno}
        except _AdjacentError as error:
            return {"error": error.args[0], "line": error.args[1]}
        except (QuotingError, OutputTooLargeError) as error:
            return {"error": str(error), "line": _line(error)}
        except jinja2.UndefinedError as error:
            return {"error": self._undefined(str(error.message), source), "line": _line(error)}
        except jinja2.sandbox.SecurityError as error:
            return {
                "error": "the template accesses what is forbidden; use parameters and filters only",
                "line": _line(error),
            }
        except MemoryError as error:
            return {"error": "memory", "line": _line(error)}
        except RecursionError as error:
            return {"error": "macros call one another endlessly; remove the loop", "line": _line(error)}
        except Exception as error:  # noqa: BLE001 - a template may raise anything; the message may contain a value, so use the class
            kind = type(error).__name__
            return {"error": f"the expression fails ({kind}); check the types of its parameters", "line": _line(error)}

    def _counted(self, pieces: Iterator[str]) -> Iterator[str]:
        for piece in pieces:
            self._left -= len(piece)
            if self._left < 0:
                raise OutputTooLargeError("output")
            yield piece

    def _check_quotes(self, source: str) -> None:
        nodes = self._jinja.nodes
        for output in self._environment.parse(source).find_all(nodes.Output):
            for before, expression, after in zip(output.nodes, output.nodes[1:], output.nodes[2:], strict=False):
                if not (isinstance(expression, nodes.Filter) and expression.name in _WITH_QUOTES):
                    continue
                if isinstance(before, nodes.TemplateData) and isinstance(after, nodes.TemplateData):
                    around = before.data[-1:] + after.data[:1]
                    if around in ("''", '""', "``"):
                        raise _AdjacentError(
                            f"the filter {expression.name} adds its own quotes; remove those around the braces",
                            expression.lineno,
                        )

    def _undefined(self, message: str, source: str) -> str:
        name = re.match(r"'([A-Za-z_][A-Za-z0-9_]*)' is undefined", message)
        if name:
            known = ", ".join(sorted(self._parameters)[:20]) or "none"
            return f"{name[1]!r} is undefined; give this parameter (given: {known}), or write default(…)"
        words = re.findall(r"'([^']*)'", message)
        # A computed name may be a value, and a value may be secret.
        if all(word in source or word.endswith(" object") for word in words):
            return f"{message}; correct the name, or write default(…)"
        return "a member is undefined; correct the name, or write default(…)"


class _AdjacentError(Exception):
    pass


def _line(error: BaseException) -> int:
    line = 0
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _TEMPLATE:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _limit(memory: int, seconds: float) -> None:
    # Limit processor time, not wall-clock time: a template only computes, and on a busy machine a harmless one would be killed
    # while it waits for the processor. The parent limits wall-clock time.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    processor = max(1, math.ceil(seconds))
    for which, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (limit, limit))


def main(arguments: Sequence[str]) -> None:
    """Arguments: memory in bytes, seconds, characters of output."""
    memory, seconds, output = int(arguments[0]), float(arguments[1]), int(arguments[2])
    _limit(memory, seconds)
    request = json.load(sys.stdin.buffer)
    renderer = Renderer(request["parameters"], output)
    # A trial run loads what Jinja2 and the codecs load lazily.
    Renderer({"a": "é"}, output).render("{% set b = 'c' %}{{ [a, 'd'] | json }}{{ e }}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    results = []
    for source in request["templates"]:
        result = renderer.render(source)
        results.append(result)
        if "error" in result:
            break
    pieces = json.JSONEncoder().iterencode(results)
    # In portions: a second copy of the whole text may not fit into the remaining memory.
    while portion := "".join(itertools.islice(pieces, 64)):
        _write(portion.encode("ascii"))


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
