"""What an orchestrator for Hurtle (`so.py`) contains, and what takes its place here.

`PHASES` and `CALLS` are the one table of both; docs/coming-from-hurtle.md shows it. `read_code` finds the methods of a `so.py`,
which is only parsed, never executed: it is Python 2, and anybody's. `skeleton` writes an `orchestrator.py` to continue from.
"""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: Longest `so.py` that is read, in characters, and the most lines of it that may be something else than Python 3.
_MAX_CODE: Final = 512 * 1024
_MAX_UNREAD: Final = 1000
#: Characters that are parsed in all, since each such line costs another attempt; and of a line that is translated.
_MAX_PARSED: Final = 32 * 1024 * 1024
_MAX_LINE: Final = 2000

#: Statements of Python 2 that are on one line, and what they are in Python 3.
_PYTHON_2: Final = (
    (r"^(\s*)print\b\s*(?:>>[^,]*,)?(.*)$", r"\1print(\2)"),
    (r"^(\s*except\b[^,(]+|\s*except\s*\([^)]*\))\s*,\s*(\w+)\s*:", r"\1 as \2:"),
    (r"^(\s*raise\s+[\w.]+)\s*,.*$", r"\1"),
    (r"^(\s*def\s+\w+)\s*\(.*\)\s*:\s*$", r"\1(*_):"),
    (r"(?<![\w.])0+(?=[0-9])", ""),
    (r"(?<=[0-9])[lL]\b", ""),
    (r"<>", "!="),
)


class Phase(NamedTuple):
    """A method that Hurtle calls.

    Args:
        of: `Execution` or `Decision`.
        old: its name there.
        ours: the methods of `sdk.Orchestrator` in its place, the nearest first.
        note: the difference.
    """

    of: str
    old: str
    ours: tuple[str, ...]
    note: str


class Call(NamedTuple):
    """A function or method that a `so.py` calls.

    Args:
        of: the module or class that has it.
        old: its name.
        ours: what is called here instead; empty if nothing has to be.
        note: the difference.
        on: parts of the names of variables that hold such an object; empty if `old` alone is distinctive.
    """

    of: str
    old: str
    ours: tuple[str, ...]
    note: str
    on: tuple[str, ...] = ()


PHASES: Final = (
    Phase("Execution", "__init__", (), "no constructor: the clients exist already, and values belong in `self.state`"),
    Phase("Execution", "design", ("activate",), "called at every start of the process"),
    Phase("Execution", "deploy", ("deploy",), "by default suppliers, then the manifest's templates; it waits for them"),
    Phase("Execution", "provision", ("provision",), "by default the manifest's `provision` templates"),
    Phase("Execution", "update", ("update",), "no arguments: the new values are in `self.parameters`"),
    Phase("Execution", "dispose", ("dispose",), "by default names, stacks and suppliers; own steps with `self.disposal.first`"),
    Phase("Execution", "state", ("details",), "reported, not asked for; own values belong in `self.outputs`"),
    Phase("Execution", "notify", ("notify", "on_alarm", "on_calm"), "an alarm is `on_alarm`, a changed stack is `notify`"),
    Phase("Decision", "__init__", (), "no second class: one orchestrator has phases and events"),
    Phase("Decision", "run", ("on_tick", "on_alarm"), "no thread and no loop: set `tick`, or define an alarm in `provision`"),
    Phase("Decision", "stop", (), "nothing to stop: there are no events after `dispose`"),
)  # fmt: skip

_DEPLOYER: Final = ("deploy", "client", "heat")
_RESOLVER: Final = ("resolver",)
_MAAS: Final = ("maas", "monitor", "zabbix")
_DNS: Final = ("dns",)
_MONASCA: Final = ("rt", "monasca", "runtime")
CALLS: Final = (
    Call("services", "list_services", ("self.design.services",), "takes the type of a service"),
    Call("services", "get_service_endpoint", ("self.design.service",), "`.url` of what it returns; it raises, never None"),
    Call("util", "get_deployer", ("self.deployment",), "one for all regions; it needs no token"),
    Call("util", "get_provisioner", ("self.provisioning",), ""),
    Call("util", "get_security_service", (), "tokens are verified before the orchestrator gets a request"),
    Call("util", "get_maas", ("self.runtime",), "no service of its own: the cloud controller collects metrics"),
    Call("util", "dispose_maas", (), "monitors and alarms are removed with the instance"),
    Call("util", "get_dnsaas", ("self.dns",), "no service of its own: the region's name server"),
    Call("util", "dispose_dnsaas", (), "names are removed with the instance"),
    Call("deployment", "deploy", ("self.deployment.deploy", "self.deployment.put", "self.deployment.wait"),
         "`deploy` takes the manifest's templates, `put` any file of the bundle", _DEPLOYER),
    Call("deployment", "update", ("self.deployment.put", "self.deployment.wait"),
         "the same call as for a new stack, by its name instead of an id", _DEPLOYER),
    Call("deployment", "dispose", ("self.deployment.dispose",), "all stacks, or one", _DEPLOYER),
    Call("deployment", "details", ("self.deployment.stack", "self.deployment.stacks"),
         "`.state`, `.id`, `.outputs` (a dictionary)", _DEPLOYER),
    Call("deployment", "check_output", ("self.deployment.output",), "it raises, never None", _DEPLOYER),
    Call("deployment", "get_template", ("self.provisioning.file",), "the template is a file of the bundle", _DEPLOYER),
    Call("provisioning", "provision", ("self.provisioning.configure",),
         "names a stack and a node, not an address; kind `ssh` for commands", ("provisioner",)),
    Call("security", "verify", (), "tokens are verified before the orchestrator gets a request"),
    Call("monitoring", "get_address", (), "the cloud controller knows where the metrics are", _MAAS),
    Call("monitoring", "get_metric", ("self.runtime.monitor", "self.runtime.query"),
         "`monitor` once in `provision`, `query` with the path that it returned"),
    Call("dnsaasclient", "create_domain", (), "zones belong to the operator of the name server"),
    Call("dnsaasclient", "get_domain", (), "zones belong to the operator of the name server"),
    Call("dnsaasclient", "update_domain", (), "zones belong to the operator of the name server"),
    Call("dnsaasclient", "delete_domain", (), "zones belong to the operator of the name server"),
    Call("dnsaasclient", "create_record", ("self.dns.put",), "types are A, AAAA, CNAME, MX, SRV and TXT"),
    Call("dnsaasclient", "get_record", ("self.dns.records",), "the instance's own records of a zone"),
    Call("dnsaasclient", "update_record", ("self.dns.put",), "the same call as for a new one"),
    Call("dnsaasclient", "delete_record", ("self.dns.remove",), ""),
    Call("dnsaasclient", "create_geo_map", (), "there is none"),
    Call("dnsaasclient", "append_geo_map", (), "there is none"),
    Call("dnsaasclient", "get_geo_map", (), "there is none"),
    Call("dnsaasclient", "delete_geo_map", (), "there is none"),
    Call("dnsaasclient", "get_forwarders", (), "there is none"),
    Call("dnsaasclient", "get_address", (), "there is none", _DNS),
    Call("dnsaasclient", "init_dns", (), "nothing to start"),
    Call("runtime", "notify", ("self.runtime.alarm",), "of a monitor; it fires as `on_alarm`", _MONASCA),
    Call("runtime", "dispose_monasca", ("self.runtime.remove",), "by the path that `alarm` returned"),
    Call("runtime", "create_user", (), "metrics need no user", _MONASCA),
    Call("runtime", "delete_user", (), "metrics need no user", _MONASCA),
    Call("Resolver", "design", (), "the catalogue is asked when a supplier is ordered", _RESOLVER),
    Call("Resolver", "deploy", ("self.resolver.resolve",), "`deploy` of the base class calls it", _RESOLVER),
    Call("Resolver", "provision", ("self.resolver.resolve",), "it passes the inputs too", _RESOLVER),
    Call("Resolver", "update", ("self.resolver.resolve",), "`update` of the base class calls it", _RESOLVER),
    Call("Resolver", "state", ("self.resolver.suppliers", "self.resolver.values"), "", _RESOLVER),
    Call("Resolver", "dispose", ("self.resolver.dispose",), "`dispose` of the base class calls it", _RESOLVER),
)  # fmt: skip


class Use(NamedTuple):
    """A call in a method: how it is written, its line, and its row in the table."""

    written: str
    line: int
    call: Call


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a `so.py`, `name` as it is written there; `of` is Execution, Decision or, of another class, empty."""

    owner: str
    name: str
    line: int
    of: str
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """The content of a `so.py`: its methods, its functions, and the lines that are not Python 3 and were not read."""

    methods: tuple[Method, ...] = ()
    functions: tuple[Method, ...] = ()
    unread: tuple[int, ...] = field(default=())


def read_code(text: str) -> Code:
    """Find the methods in the text of a `so.py`.

    Raises:
        ValueError: it is too long, or too much of it is no Python.
    """
    if len(text) > _MAX_CODE:
        raise ValueError(f"it is longer than {_MAX_CODE} characters")
    tree, unread = _parsed(text)
    try:
        return _read(tree, unread)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _read(tree: ast.Module, unread: set[int]) -> Code:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    kinds: dict[str, str] = {}
    methods: list[Method] = []
    for each in classes:
        kinds[each.name] = _kind(each, kinds)
        methods += [_method(each.name, function, kinds[each.name]) for function in _functions(each)]
    return Code(
        tuple(methods), tuple(_method("", function, "") for function in _functions(tree)), tuple(sorted(unread))
    )


def _parsed(text: str) -> tuple[ast.Module, set[int]]:
    """Parse Python 2 as far as it is Python 3. A line that is not is translated, else replaced by `pass`, else by nothing.

    Returns the module, and the numbers of the lines that were replaced.
    """
    # Python 2 takes a tab as the next multiple of eight.
    lines = [line.expandtabs(8) for line in text.splitlines()]
    left: dict[int, list[str]] = {}
    unread: set[int] = set()
    parsed = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse("\n".join(lines) + "\n"), unread
        except SyntaxError as error:
            index = min(error.lineno or len(lines), len(lines)) - 1
        except (ValueError, RecursionError, MemoryError):
            raise ValueError("Python cannot parse it") from None
        instead = left.setdefault(index, _instead(lines[index]) if index >= 0 else [])
        parsed += len(text)
        if not instead or len(left) > _MAX_UNREAD or parsed > _MAX_PARSED:
            raise ValueError(f"Python cannot parse line {index + 1}")
        lines[index] = instead.pop(0)
        if len(instead) < 2:
            unread.add(index + 1)


def _instead(line: str) -> list[str]:
    """What to try in place of a line that is not Python 3: translated, then without its content, then empty."""
    translated = line
    for pattern, by in _PYTHON_2 if len(line) <= _MAX_LINE else ():
        translated = re.sub(pattern, by, translated)
    indent = line[: len(line) - len(line.lstrip())]
    return [translated, f"{indent}pass", ""]


def _kind(each: ast.ClassDef, known: dict[str, str]) -> str:
    bases = [_written(base) for base in each.bases]
    inherited = [known[base] for base in bases if known.get(base)]
    if inherited:
        return inherited[0]
    names = {function.name for function in _functions(each)}
    if any("Decision" in name for name in (each.name, *bases)):
        return "Decision"
    return (
        "Execution"
        if any("Execution" in name for name in (each.name, *bases)) or {"deploy", "dispose"} <= names
        else ""
    )


def _functions(node: ast.ClassDef | ast.Module) -> list[ast.FunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef)]


def _method(owner: str, function: ast.FunctionDef, kind: str) -> Method:
    found: dict[str, Use] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and (use := _use(node)) is not None:
            found.setdefault(use.written, use)
    return Method(owner, function.name, function.lineno, kind, tuple(sorted(found.values(), key=lambda use: use.line)))


def _use(node: ast.Call) -> Use | None:
    written = _written(node.func)
    receiver, _, name = written.rpartition(".")
    variables = [part.rstrip("[…]()").lower() for part in receiver.split(".")]
    for call in CALLS:
        fits = not call.on or any(
            part == variable or (len(part) > 2 and part in variable) for part in call.on for variable in variables
        )
        if call.old == name and fits:
            return Use(written, node.lineno, call)
    return None


def _written(node: ast.expr) -> str:
    """A name with its dots, without what it is called or subscripted with: that may be any text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_written(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return f"{_written(node.value)}[…]"
    return f"{_written(node.func)}()" if isinstance(node, ast.Call) else "…"


def skeleton(code: Code, *, term: str, file: str, taken: Sequence[str]) -> str:
    """Return the text of an `orchestrator.py` to continue from: it works as it is, like a bundle without one.

    Args:
        term: of the service.
        file: name of the `so.py`, for the comments.
        taken: names of `sdk.Orchestrator`; a method that is no phase does not take the name of one of these.
    """
    return "\n".join(_lines(code, term, file, frozenset(taken))) + "\n"


def _lines(code: Code, term: str, file: str, taken: frozenset[str]) -> Iterator[str]:
    yield f'"""The orchestrator of {term}, to be ported from {file} as docs/coming-from-hurtle.md describes.'
    yield ""
    yield "A phase does here what it does by default. Add what the old one did beyond that, and delete the method otherwise."
    yield '"""'
    yield from ["", "from __future__ import annotations", "", "from typing import Any", "", "import sdk", "", ""]
    for each in code.functions:
        yield f"# {file} line {each.line}: the function {each.name}"
    for number in code.unread[:20]:
        yield f"# {file} line {number}: not Python 3, so not read"
    if len(code.unread) > 20:
        yield f"# {file}: {len(code.unread) - 20} more lines are not Python 3"
    yield f"class {_class_name(term)}(sdk.Orchestrator):"
    yield f'    """Carries an instance of {term} through its life."""'
    phases: dict[str, list[Method]] = {}
    others: dict[str, list[Method]] = {}
    for method in code.methods:
        row = next((row for row in PHASES if (row.of, row.old) == (method.of, method.name)), None)
        if row is not None and row.ours:
            phases.setdefault(row.ours[0], []).append(method)
        elif row is not None:
            yield from ["", *_comment(f"{_origin(method, file)}: {row.note}.", "    "), *_uses(method, "    ")]
        elif method.of:
            others.setdefault(_free(method.name, taken), []).append(method)
        else:
            yield from ["", f"    # {_origin(method, file)}: a class of its own, to be copied if it is needed"]
    for name, methods in phases.items():
        yield from _phase(name, methods, file)
    for name, methods in others.items():
        origins = " and ".join(_origin(method, file) for method in methods)
        yield from ["", f"    def {name}(self, *args: Any, **kwargs: Any) -> Any:", f'        """Was {origins}."""']
        for method in methods:
            yield from _uses(method, "        ")
        yield f'        raise sdk.Failure("{name} is not ported yet")'


def _phase(name: str, methods: Sequence[Method], file: str) -> Iterator[str]:
    argument = {"notify": "event: sdk.Event", "on_tick": "tick: sdk.Tick"}.get(name, "")
    returned = "sdk.Details" if name == "details" else "None"
    yield from ["", f"    def {name}({', '.join(filter(None, ['self', argument]))}) -> {returned}:"]
    yield f'        """Was {" and ".join(_origin(method, file) for method in methods)}."""'
    for note in dict.fromkeys(
        row.note for row in PHASES for method in methods if (row.of, row.old) == (method.of, method.name)
    ):
        yield from _comment(f"Differs: {note}.", "        ")
    for method in methods:
        yield from _uses(method, "        ")
    yield f"        {'return ' if name == 'details' else ''}super().{name}({argument.partition(':')[0]})"


def _uses(method: Method, indent: str) -> Iterator[str]:
    for use in method.uses:
        instead = ", ".join(use.call.ours) or "nothing"
        note = f"; {use.call.note}" if use.call.note else ""
        yield from _comment(f"It called {use.written} (line {use.line}). Here: {instead}{note}.", indent)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")


def _origin(method: Method, file: str) -> str:
    return f"{method.owner}.{method.name} ({file} line {method.line})"


def _free(name: str, taken: frozenset[str]) -> str:
    # Names with two underscores are rewritten by Python, and those of the base class have a meaning.
    own = "_" + name.strip("_") if name.startswith("_") else name
    return f"ported_{own.lstrip('_')}" if own in taken or keyword.iskeyword(own) or not own.strip("_") else own


def _class_name(term: str) -> str:
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_]", term)) + "Orchestrator"
    return name if name.isidentifier() else f"Service{name}"
