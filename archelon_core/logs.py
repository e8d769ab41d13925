"""JSON log lines without secrets on one stream, for web workers, queue workers and gunicorn alike.

Each record of the standard library's `logging` becomes one line of JSON: time, level, logger, message, request id if any, then
the fields given as `extra`. The formatter hides secrets, not a filter, since only the formatter sees everything: merged
arguments, the traceback as text, the extra fields. Everything outside ASCII and every control character is escaped, so a line is
one record, whatever a tenant sends.

The request id is a context variable: `request_log.RequestLog` sets it in web workers, `follow_request` wherever else work for a
request continues. A background thread does not inherit it; pass it on.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import json
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TextIO

from pythonjsonlogger import core

from . import redaction

#: Acceptable request ids from outside: long enough for a UUID and a prefix, without characters that need escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")

#: The request that this context works for.
current_request: contextvars.ContextVar[follow_request | None] = contextvars.ContextVar(
    "archelon_request", default=None
)

#: Takes the records of the present context instead of the process' own stream.
_destination: contextvars.ContextVar[_LineHandler | None] = contextvars.ContextVar(
    "archelon_log_destination", default=None
)

#: Members of an array or an object that are hidden individually.
_HIDDEN_MEMBERS = 64
_RESERVED = frozenset(core.RESERVED_ATTRS) | {"taskName", "color_message"}
_OWN_FIELDS = frozenset({"time", "level", "logger", "message", "request_id", "exception", "stack"})
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def request_id() -> str:
    """The id of the request that this thread works for, or empty. Send it on as X-Request-Id."""
    request = current_request.get()
    return "" if request is None else request.identifier


def new_request_id() -> str:
    """A fresh request id: `req-` and 128 random bits in hexadecimal, which only have to be unique."""
    # Seeded again in each forked process. The system's generator would release the interpreter's lock.
    return f"req-{random.getrandbits(128):032x}"  # nosec


def well_formed_request_id(given: str) -> bool:
    """Whether to accept an id from outside: 8 to 128 letters, digits, `.`, `_`, `:` and `-`."""
    return _REQUEST_ID.fullmatch(given) is not None


class follow_request:  # noqa: N801 - used like a function
    """Context manager that sets the request id of lines written inside, and hides the given secrets in them.

    A class, not a generator: every request passes through. Use each once.

    Args:
        identifier: the request id; a malformed one is replaced by a new one.
        secret_values: returns the secrets of this request; called when a line is written.
        new_id: returns a new request id.

    Attributes:
        identifier: the request id.
        hidden: secrets that occurred while serving the request: values of secret attributes, read or written.
    """

    __slots__ = ("_secret_values", "_token", "hidden", "identifier")

    def __init__(
        self,
        identifier: str | None,
        *,
        secret_values: Callable[[], tuple[str, ...]] | None = None,
        new_id: Callable[[], str] = new_request_id,
    ) -> None:
        self.identifier = identifier if identifier and well_formed_request_id(identifier) else new_id()
        self.hidden: list[str] = []
        self._secret_values = secret_values

    def __enter__(self) -> None:
        self._token = current_request.set(self)

    def __exit__(self, *_error: object) -> None:
        current_request.reset(self._token)

    def secrets(self) -> tuple[str, ...]:
        """All texts to hide in lines of this request."""
        given = self._secret_values() if self._secret_values else ()
        return (*given, *[each for value in self.hidden for each in redaction.spellings(value)])


def hide_in_request(value: object) -> None:
    """Hide a value in all further lines of the present request: a backend may put its input into an exception.

    Of an array or an object, the JSON, Python's spelling and the first members are hidden: a traceback may show one of them.
    Outside a request, and for texts shorter than 4 characters, nothing is hidden.
    """
    request = current_request.get()
    if request is not None:
        for text in _texts_of(value):
            if len(text) >= redaction.SHORTEST and text not in request.hidden:
                request.hidden.append(text)


def _texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    texts = [json.dumps(value)]
    if isinstance(value, dict | list):
        texts.append(repr(value))
    # Each text is searched for in each line, so their number is limited.
    pending = collections.deque([value])
    for _ in range(_HIDDEN_MEMBERS):
        if not pending:
            break
        each = pending.popleft()
        if isinstance(each, dict | list):
            pending.extend(each.values() if isinstance(each, dict) else each)
        elif isinstance(each, str):
            texts.append(each)
    return texts


class JsonFormatter(core.BaseJsonFormatter):
    """Formats a record as one line of JSON without secrets.

    Args:
        redactor: hides the secrets.
        service: name of the program, a field of every line; empty for none.
    """

    def __init__(self, redactor: redaction.Redactor, *, service: str = "") -> None:
        super().__init__()
        self._redactor = redactor
        self._service = service
        # Times within one second share their text; formatting it for each line costs more than the rest of the line.
        self._second: tuple[int, str] = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline. A record whose arguments do not fit its message is logged without them."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError) as error:
            message = (
                f"{record.msg} [arguments do not fit: {type(error).__name__} at {record.filename}:{record.lineno}]"
            )
        request = current_request.get()
        also = () if request is None else request.secrets()
        hide = self._redactor.text
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": hide(message, also=also),
        }
        if self._service:
            line["service"] = self._service
        if request is not None:
            line["request_id"] = request.identifier
        for name, value in record.__dict__.items():
            if name in _RESERVED or name.startswith("_"):
                continue
            shown = redaction.HIDDEN if name.lower().replace("_", "-") in redaction.SECRET_HEADERS else value
            # A field must not pass for one of ours.
            line[f"extra_{name}" if name in _OWN_FIELDS and name in line else name] = self._redactor.value(
                shown, also=also
            )
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = hide(str(self.formatException(record.exc_info)), also=also)
        elif record.exc_text:
            line["exception"] = hide(record.exc_text, also=also)
        if record.stack_info:
            line["stack"] = hide(record.stack_info, also=also)
        try:
            return _encode(line)
        except ValueError:
            # JSON has no NaN or infinity.
            return _encode(json.loads(json.dumps(line), parse_constant=str))

    def _time(self, created: float) -> str:
        second = int(created)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int((created - second) * 1e6):06d}Z"


class LineStream(Protocol):
    """Takes log lines, each in one call."""

    def write(self, line: str, /) -> object:
        """Write a line, with its newline."""


class _LineHandler(logging.StreamHandler[LineStream]):
    """Writes lines; for a record that cannot be formatted, a line that says so without its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.StreamHandler.emit(_destination.get() or self, record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            return  # The stream is gone: there is nowhere left to report it.
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": "ERROR",
            "logger": __name__,
            "message": f"a log line could not be written: {type(error).__name__} at {record.filename}:{record.lineno}",
        }
        with contextlib.suppress(OSError):
            self.stream.write(_encode(line) + self.terminator)


def write_to(stream: LineStream, redactor: redaction.Redactor, *, service: str = "") -> None:
    """Send the log lines of the present context, and of those copied from it, to a stream of their own.

    Args:
        stream: calls come one at a time.
        redactor, service: as for `configure`, which must have been called.
    """
    handler = _LineHandler(stream)
    handler.setFormatter(JsonFormatter(redactor, service=service))
    _destination.set(handler)


def configure(
    redactor: redaction.Redactor, *, level: str = "INFO", stream: TextIO | None = None, service: str = ""
) -> None:
    """Send every log line of this process, including warnings and uncaught exceptions, to one stream as JSON.

    Call it once at start, before gunicorn or threads; a second call replaces what the first one set up.

    Args:
        redactor: hides the secrets; register further ones at any time.
        level: minimum level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        stream: output; standard error by default.
        service: name of the program, a field of every line.

    Raises:
        ValueError: no such level.
    """
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError(f"no log level {level!r}; expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    handler = _LineHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(redactor, service=service))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _LineHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # At DEBUG these write each header, and so each token, or write to standard output; keep them at INFO or above.
    for chatty in ("urllib3", "keystoneauth"):
        logging.getLogger(chatty).setLevel(max(logging.INFO, root.level))
    # At INFO, SQLAlchemy logs every statement with its values.
    logging.getLogger("sqlalchemy").setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is None or issubclass(caught.exc_type, SystemExit):
        return
    logging.getLogger(__name__).critical(
        "uncaught exception in thread %s",
        caught.thread.name if caught.thread else "?",
        exc_info=(caught.exc_type, caught.exc_value, caught.exc_traceback),
    )
