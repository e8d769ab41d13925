"""JSON log lines on one stream, for web workers, work-queue workers and gunicorn alike; no secret gets into them.

A record comes from anywhere in the standard library's `logging`; out goes one line of JSON: time, level, logger, message,
request id where there is one, then whatever fields were given as `extra`. Hiding secrets is the formatter's work, not a
filter's, since only the formatter sees the whole: arguments merged in, the traceback as text, the extra fields. Everything
outside ASCII and every control character is escaped, so that a line is one record, whatever a tenant sends.

The request id is a context variable: `request_log.RequestLog` sets it in web workers, `follow_request` wherever else work goes on
for a request. A background thread does not inherit it; give it on.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import json
import logging
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger import core

from . import redaction

#: What may come from outside as a request id: long enough for a UUID and a prefix, and nothing that needs escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("archelon_request_id", default="")
#: Gives the tokens of the present request, asked for only when a line is written.
_request_secrets: contextvars.ContextVar[Callable[[], tuple[str, ...]] | None] = contextvars.ContextVar(
    "archelon_request_secrets", default=None
)

#: Secrets that came up while the present request was served: values of secret attributes, read or written.
_request_hidden: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "archelon_request_hidden", default=None
)

#: Members of an array or an object that are looked at for what is to be hidden by itself.
_HIDDEN_MEMBERS = 64
_RESERVED = frozenset(core.RESERVED_ATTRS) | {"taskName", "color_message"}
_OWN_FIELDS = frozenset({"time", "level", "logger", "message", "request_id", "exception", "stack"})
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def request_id() -> str:
    """The id of the request that this thread works for, empty where there is none. Send it on as X-Request-Id."""
    return _request_id.get()


def new_request_id() -> str:
    """A fresh request id: `req-` and 128 random bits in hexadecimal."""
    return "req-" + secrets.token_hex(16)


def well_formed_request_id(given: str) -> bool:
    """Whether an id from outside may be taken over: 8 to 128 letters, digits, `.`, `_`, `:` and `-`."""
    return _REQUEST_ID.fullmatch(given) is not None


@contextlib.contextmanager
def follow_request(identifier: str, *, secret_values: Callable[[], tuple[str, ...]] | None = None) -> Iterator[None]:
    """Lines written inside carry this request id, and the given secrets are hidden in them.

    Args:
        identifier: the request id; one that is not well-formed is replaced by a new one.
        secret_values: gives the secrets of this request; called when a line is written.
    """
    id_token = _request_id.set(identifier if well_formed_request_id(identifier) else new_request_id())
    secrets_token = _request_secrets.set(secret_values)
    hidden_token = _request_hidden.set([])
    try:
        yield
    finally:
        _request_hidden.reset(hidden_token)
        _request_id.reset(id_token)
        _request_secrets.reset(secrets_token)


def hide_in_request(value: object) -> None:
    """From now on hide this in the lines of the present request: a backend may put what it was given into an exception.

    Of an array or an object its JSON and Python's spelling are hidden, and the first of its members by themselves: a traceback
    may show one of them. Outside a request, and of texts shorter than 4 characters, nothing is hidden.
    """
    hidden = _request_hidden.get()
    if hidden is not None:
        for text in _texts_of(value):
            if len(text) >= redaction.SHORTEST and text not in hidden:
                hidden.append(text)


def _texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    texts = [json.dumps(value)]
    if isinstance(value, dict | list):
        texts.append(repr(value))
    # Each text is looked for in each line, so there is a most.
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
        redactor: knows the secrets.
        service: name of the program, a field of every line; empty for none.
    """

    def __init__(self, redactor: redaction.Redactor, *, service: str = "") -> None:
        super().__init__()
        self._redactor = redactor
        self._service = service
        # Times within one second share their text; formatting them anew for each line costs more than the rest of the line.
        self._second: tuple[int, str] = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline. A record whose arguments do not fit its message is shown without them."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError) as error:
            message = (
                f"{record.msg} [arguments do not fit: {type(error).__name__} at {record.filename}:{record.lineno}]"
            )
        give_secrets = _request_secrets.get()
        also = give_secrets() if give_secrets else ()
        for value in _request_hidden.get() or ():
            also = (*also, *redaction.spellings(value))
        hide = self._redactor.text
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": hide(message, also=also),
        }
        if self._service:
            line["service"] = self._service
        identifier = _request_id.get()
        if identifier:
            line["request_id"] = identifier
        for name, value in record.__dict__.items():
            if name in _RESERVED or name.startswith("_"):
                continue
            shown = redaction.HIDDEN if name.lower().replace("_", "-") in redaction.SECRET_HEADERS else value
            # A field must not pass itself off as one of ours.
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
            # NaN and infinity have no JSON.
            return _encode(json.loads(json.dumps(line), parse_constant=str))

    def _time(self, created: float) -> str:
        second = int(created)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int((created - second) * 1e6):06d}Z"


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines; a record that cannot be formatted leaves a line that says so, and not its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            return  # The stream is gone: there is nowhere left to say it.
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": "ERROR",
            "logger": __name__,
            "message": f"a log line could not be written: {type(error).__name__} at {record.filename}:{record.lineno}",
        }
        with contextlib.suppress(OSError):
            self.stream.write(_encode(line) + self.terminator)


def configure(
    redactor: redaction.Redactor, *, level: str = "INFO", stream: TextIO | None = None, service: str = ""
) -> None:
    """Send every log line of this process, warnings and uncaught exceptions too, to one stream as JSON.

    Call it once at start, before gunicorn or threads; calling it again replaces what the first call set up.

    Args:
        redactor: knows the secrets; register further ones at any time.
        level: least level to show: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        stream: where to write; standard error by default.
        service: name of the program, shown in every line.

    Raises:
        ValueError: there is no such level.
    """
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError(f"{level!r} is no log level; choose DEBUG, INFO, WARNING, ERROR or CRITICAL")
    handler = _LineHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(redactor, service=service))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _LineHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # These write each header, and so each token, at DEBUG or to standard output; they are to stay below ours.
    for chatty in ("urllib3", "keystoneauth"):
        logging.getLogger(chatty).setLevel(max(logging.INFO, root.level))
    # To SQLAlchemy INFO means every statement, with its values.
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
