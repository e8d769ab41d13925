"""Settings of a service: from environment variables and one file, validated as a whole before anything starts.

A service extends `Settings` with its own fields. A field `database_url` is set by the variable ARCHELON_DATABASE_URL, or by
`database_url` in the file that ARCHELON_CONFIG names (YAML or TOML); the environment wins. All errors are reported at once, each
with the value (unless secret), its source, and what is expected. An unknown name is an error that suggests the nearest one,
because a misspelt setting would otherwise silently be its default.

Secrets are `SecretStr` and never shown. A field that may contain one, such as a database's URL, is one too.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic.fields import FieldInfo

from .addresses import public_url
from .documents.problems import DocumentError
from .documents.reading import only_document, read_text, text_of
from .documents.tree import DocumentLimits, plain

#: Prefix of all our environment variables.
PREFIX = "ARCHELON_"
_CONFIG = "ARCHELON_CONFIG"
#: Read by the test suite, not by services.
_OTHERS = re.compile(r"ARCHELON_(?:TEST|BENCH)_.*")
# Kubernetes sets these in every container for each Service, whose name may begin with archelon.
_KUBERNETES = re.compile(
    r"ARCHELON_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT = re.compile(r"(?:tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+:[0-9]+")


class SettingsError(Exception):
    """Settings are invalid. The text has a line for each; print it and exit.

    Attributes:
        problems: the lines.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        count = "1 setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
        super().__init__(f"{count}:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = tuple(problems)


class Settings(pydantic.BaseModel):
    """The settings of every service. Extend it, describe each field, and add an example if the type is not enough.

    Create it with `load`; frozen.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    log_level: typing.Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = pydantic.Field(
        "INFO", description="minimum level of log lines"
    )
    access_log: bool = pydantic.Field(True, description="whether to log a line for each request")
    metrics_token: pydantic.SecretStr = pydantic.Field(
        pydantic.SecretStr(""),
        description="token for Prometheus to read /metrics of web, 32 characters or more; if empty, only operators can",
    )

    @pydantic.field_validator("metrics_token")
    @classmethod
    def _long_enough(cls, token: pydantic.SecretStr) -> pydantic.SecretStr:
        if 0 < len(token.get_secret_value()) < 32:
            raise ValueError("a token of fewer than 32 characters can be guessed; `openssl rand -hex 32` makes one")
        return token

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read, validate and return the settings.

        Args:
            environ: the environment; None for the process' own.

        Raises:
            SettingsError: settings are invalid; it lists all problems.
        """
        environ = os.environ if environ is None else environ
        path = Path(environ[_CONFIG]) if environ.get(_CONFIG) else None
        known = set(cls.model_fields)
        problems: list[str] = []
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        if path is not None:
            for name, value in _read_file(path).items():
                if name not in known:
                    problems.append(_unknown(str(name), f"file {path}", known))
                else:
                    values[name], sources[name] = value, f"file {path}"
        for variable, text in _variables(environ):
            name = variable.removeprefix(PREFIX).lower()
            source = f"environment variable {variable}"
            if variable != PREFIX + name.upper() or name not in known:
                problems.append(_unknown(variable, source, known, variable=True))
            else:
                values[name], sources[name] = _from_text(text, cls.model_fields[name]), source
        try:
            settings = cls(**values)
        except pydantic.ValidationError as error:
            details = error.errors(include_url=False)
            raise SettingsError([*problems, *(cls._problem(detail, values, sources) for detail in details)]) from None
        if problems:
            raise SettingsError(problems)
        return settings

    def secret_values(self) -> tuple[str, ...]:
        """Every secret in these settings, for `redaction.Redactor`."""
        return tuple(_secrets_in([getattr(self, name) for name in type(self).model_fields]))

    @classmethod
    def _problem(cls, detail: Any, values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
        place = detail["loc"]
        name = str(place[0]) if place else ""
        field = cls.model_fields.get(name)
        message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if field is None:
            return message if not name else f"{name}: {message}"
        wanted = _wanted(field)
        if detail["type"] == "missing" and name not in values:
            return f"{name} is not set; set {PREFIX}{name.upper()}, or {name} in the file that {_CONFIG} names{wanted}"
        inside = "".join(f"[{part!r}]" for part in place[1:] if name in values and isinstance(part, int | str))
        value = values.get(name, field.default)
        if _is_secret(field):
            shown = "(hidden)"
            for secret in _leaves(value):
                message = message.replace(secret, "(hidden)") if secret else message
        else:
            shown = _shown(value)
        return f"{name}{inside} = {shown} (from {sources.get(name, 'its default')}): {_lower(message)}{wanted}"


def _public_url(url: str) -> str:
    return public_url(url) if url else ""


#: URL of a service: http or https, a host, perhaps a port and a path; or empty, where a setting may be.
PublicUrl = typing.Annotated[str, pydantic.AfterValidator(_public_url)]


class CallersSettings(Settings):
    """Settings of a service that may authenticate callers by Keystone."""

    keystone_ca_file: str = pydantic.Field("", description="trusted certificates for Keystone; the system's if empty")
    keystone_roles: dict[str, str] = pydantic.Field(
        {},
        description="Keystone's roles to Archelon's, in addition to those that have the same name",
        examples=[{"boss": "provider"}],
    )
    keystone_operator_project: str = pydantic.Field(
        "", description="id of the project whose administrators are operators, as those of the whole system are"
    )


class WebSettings(CallersSettings):
    """Settings of a service that clients reach over HTTP: limits for slow and busy clients, and trusted proxies."""

    trusted_proxies: tuple[pydantic.IPvAnyNetwork, ...] = pydantic.Field(
        (),
        description="addresses and networks of proxies whose X-Forwarded-For is trusted",
        examples=["10.0.0.0/8,192.0.2.1"],
    )
    client_seconds: float = pydantic.Field(
        10.0,
        gt=0,
        le=600,
        description="seconds for a request's head, for its body, and for its response, in addition to client_rate",
    )
    client_rate: int = pydantic.Field(
        8192, ge=1, description="bytes of a body or a response for which a client gets one more second"
    )
    connections: int = pydantic.Field(1000, ge=8, le=65536, description="connections that a web process keeps open")
    connections_per_address: int = pydantic.Field(
        128, ge=4, description="of these, without a running request, from one address that is not a trusted proxy's"
    )
    client_storage: int = pydantic.Field(
        128 << 20, ge=1 << 20, description="bytes of unfinished bodies and responses that a web process keeps in files"
    )
    rate_per_address: float = pydantic.Field(
        500.0,
        ge=1,
        description="requests per second of one address to a web process; bursts of four times as many are accepted",
    )
    rate_per_tenant: float = pydantic.Field(
        500.0, ge=1, description="the same for one tenant; a body counts as a request for each 8 KiB"
    )


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX) or variable == _CONFIG:
            continue
        text = environ[variable]
        if _OTHERS.fullmatch(variable) or _KUBERNETES.fullmatch(variable):
            continue
        if variable.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(text):
            continue
        yield variable, text


def _read_file(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise SettingsError([f"{_CONFIG} = {path}: end its name in .yaml, .yml or .toml"])
    try:
        with path.open("rb") as file:
            text = text_of(file, file=str(path), limits=DocumentLimits())
        if path.suffix == ".toml":
            return tomllib.loads(text)
        documents = read_text(text, file=str(path))
        content = plain(only_document(documents, str(path))) if documents else None
    except OSError as error:
        raise SettingsError([f"{_CONFIG} = {path}: {error.strerror}; name a file that this user can read"]) from error
    except tomllib.TOMLDecodeError as error:
        # The error's own text quotes the line, which may contain a secret.
        found = re.search(r"\(at (.*)\)$", str(error))
        raise SettingsError([f"{path} is not TOML{' at ' + found[1] if found else ''}; correct it there"]) from None
    except DocumentError as error:
        raise SettingsError([str(problem) for problem in error.problems]) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError([f"{path} is not a map of names to values; write lines such as log_level: INFO"])
    return content


def _from_text(text: str, field: FieldInfo) -> Any:
    """Parse a variable: lists and maps as JSON, and lists also as words separated by commas."""
    kinds = _kinds(field.annotation)
    if kinds.isdisjoint({list, tuple, set, frozenset, dict}) and not any(
        isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) for kind in kinds
    ):
        return text
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if kinds.isdisjoint({list, tuple, set, frozenset}):
        return text
    return [word.strip() for word in text.split(",") if word.strip()]


def _kinds(annotation: Any) -> set[Any]:
    """The types of an annotation: of `list[int] | None`, these are list and NoneType."""
    origin = typing.get_origin(annotation)
    if origin is None:
        return {annotation}
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if isinstance(origin, type) and origin.__name__ != "UnionType":
        return {origin}
    found: set[Any] = set()
    for member in typing.get_args(annotation):
        found |= _kinds(member)
    return found


def _is_secret(field: FieldInfo) -> bool:
    return _holds_secret(field.annotation, frozenset())


def _holds_secret(annotation: Any, seen: frozenset[Any]) -> bool:
    """Whether an annotation contains a secret type: in a list, a union, or a model's fields."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.SecretStr | pydantic.SecretBytes):
        return True
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel) and annotation not in seen:
        inner = [field.annotation for field in annotation.model_fields.values()]
        return any(_holds_secret(member, seen | {annotation}) for member in inner)
    return any(_holds_secret(member, seen) for member in typing.get_args(annotation))


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, pydantic.SecretStr):
        # An empty one hides nothing.
        if value.get_secret_value():
            yield value.get_secret_value()
    elif isinstance(value, pydantic.BaseModel):
        yield from _secrets_in([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping):
        yield from _secrets_in(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for member in value:
            yield from _secrets_in(member)


def _leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found: list[str] = []
        for member in value:
            found += _leaves(member)
        return found
    return [str(value)]


def _shown(value: Any) -> str:
    text = repr(value)
    # A password inside a URL, in a setting that is not declared secret.
    text = re.sub(r"(://)[^/@\s'\"]*@", r"\1(hidden)@", text)
    return text if len(text) <= 200 else text[:200] + "…"


def _wanted(field: FieldInfo) -> str:
    parts = []
    if field.description:
        parts.append(field.description)
    if field.examples:
        parts.append(f"for example {field.examples[0]!r}")
    return "; it is " + ", ".join(parts) if parts else ""


def _unknown(name: str, source: str, known: set[str], *, variable: bool = False) -> str:
    # Compare without the prefix, which all names share and which would make all of them similar.
    sought = name.upper().removeprefix(PREFIX).lower() if variable else name
    near = difflib.get_close_matches(sought, sorted(known), n=1, cutoff=0.6)

    def spelled(field: str) -> str:
        return PREFIX + field.upper() if variable else field

    remedy = (
        f"did you mean {spelled(near[0])}?" if near else f"expected one of {', '.join(map(spelled, sorted(known)))}"
    )
    # The value is not shown: it may be a secret under a misspelt name.
    return f"{name} (from {source}): no such setting; {remedy}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
