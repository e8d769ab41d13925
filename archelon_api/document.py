"""Generates `docs/wire.md` from the vocabulary: `python -m archelon_api.document > docs/wire.md`.

A test compares the page with this package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Final

from occi.core_model import Action, Kind, Mixin

from occi_service.attributes import Attribute, as_attribute

from . import deploy, design, disposal, dns, names, orchestrator, provision, runtime, service_manager, tokens

_HEAD: Final = """# Wire protocol

The kinds, attributes and actions that Archelon's services exchange, generated from `archelon_api` by
`python -m archelon_api.document`. All of it is OCCI 1.2. [architecture.md](architecture.md) follows one order through it, and
lists the rules that hold for every request.

In the tables, *use* is `required` (given at creation), `provider` (set only by the service) or empty; *secret* values are
encrypted at rest and shown only on a GET of their one entity. `/-/` marks these attributes in JSON, with the member
`"secret": true` beside those of GFD.226, and in HTML; the text renderings have no place for it.

The service manager takes the query `?dry-run=true` with POST and PUT of its entities and collections, but not with actions: it
checks the request as without it and responds with the entity that would be left, status 200; nothing is made or changed. With
`PUT /bundle/<sha256>` it responds with JSON: `service`, `digest`, and as `outcome` whether publishing the bundle would make the
service `new`, leave it `unchanged`, or have it `replaced`. What only
another service checks, such as a delegation, is not checked.
"""

_CLIENTS: Final = """## Requests of other OCCI clients

What clients of other projects send is accepted in every rendering:

- An `occi.core.id` or `id` at POST, which GFD.226 requires, gets a 201. For an instance, a UUID that is free (alone, as
  `urn:uuid:` or as a path) becomes the last part of its path. Any other id is ignored, and so is every id where the service
  chooses. At PUT and in updates the path decides, whatever the id.
- All that a GET shows may be sent back, by PUT or in an update, including what only the service sets.
- In JSON, one mixin may be sent to `/-/` without `{"mixins": […]}`, and `{"resources": [one]}` to an entity's path.
- Also in JSON, a member `location` of an entity is ignored. Text may declare the charset ISO-8859-1 and is then read in it.
- Attaching a mixin at its location is answered with its collection. In JSON, `{"resources": […]}` names the entities, each by
  its location as a text, or as an object with `kind` and `id`.

A GET of a collection is filtered by `Category` and `X-OCCI-Attribute` in its header, or in its query: `category=` with a
type identifier (`#` written as `%23`) or a term, and `name=value` of attributes. The core kinds `entity`, `resource` and
`link` select all that derive from them, and an unquoted `*` any value: `/?category=resource&mcn.service.state=*` lists the
instances of all services, without records, links and published services. A request that changes a whole collection cannot
be filtered: 400.

`page` and `number` select a page, from 1. A page that others follow has a field `Link: <…?number=…&after=…>; rel="next"`
(RFC 8288), except in text/occi and where the entities of several kinds of the cloud controller are listed: the page behind
this one, with the same filters in the header. `after` costs the same at any depth, and what is created or deleted meanwhile
moves no other entity to another page; the cost of `page` grows with its number.

A POST to a collection that names no kind gets a 400 and orders nothing.
"""

_MODULES: Final[tuple[tuple[str, ModuleType], ...]] = (
    ("Service manager", service_manager),
    ("Orchestrator", orchestrator),
    ("Design", design),
    ("Deploy", deploy),
    ("Provision", provision),
    ("DNS", dns),
    ("Runtime", runtime),
    ("Disposal", disposal),
)


def page() -> str:
    """Return the page."""
    parts = [_HEAD, _CLIENTS, "## Every object of an instance\n", _table(names.LABELS)]
    parts += [
        "## Every instance\n",
        "In addition to the attributes that its manifest declares.\n",
        _table(service_manager.INSTANCE_ATTRIBUTES),
    ]
    for title, module in _MODULES:
        parts += [f"## {title}\n", _introduction(module), *_of_module(module)]
    parts += ["## Tokens\n", _introduction(tokens), *_claims()]
    return "\n".join(parts)


def _introduction(module: ModuleType) -> str:
    """Return the module's docstring, without line breaks within paragraphs."""
    paragraphs = (module.__doc__ or "").strip().split("\n\n")
    return "\n\n".join([" ".join(each.split()) for each in paragraphs]) + "\n"


def _of_module(module: ModuleType) -> Iterator[str]:
    found = list(vars(module).values())
    shown: list[Action] = []
    for category in found:
        if isinstance(category, Kind | Mixin) and category.scheme == getattr(module, "SCHEME", category.scheme):
            yield from _category(category)
            for action in category.actions:
                if action not in shown:
                    shown.append(action)
                    yield from _action(action)
    for action in found:
        if isinstance(action, Action) and action not in shown:
            yield from _action(action)


def _category(category: Kind | Mixin) -> Iterator[str]:
    word = "Kind" if isinstance(category, Kind) else "Mixin"
    where = f", at `{category.location}`" if category.location else ""
    yield f"### {word} `{category.term}`\n"
    yield f"{category.title or category.term}: `{category.scheme}{category.term}`{where}.\n"
    if category.attributes:
        yield _table(category.attributes)


def _action(action: Action) -> Iterator[str]:
    yield f"**Action `{action.term}`** (`{action.scheme}{action.term}`): {action.title or action.term}.\n"
    if action.attributes:
        yield _table(action.attributes)


def _table(attributes: Mapping[str, str]) -> str:
    rows = ["| attribute | use | type | |", "| --- | --- | --- | --- |"]
    for name, definition in attributes.items():
        attribute = as_attribute(definition)
        use = "provider" if attribute.immutable else "required" if attribute.required else ""
        secret = ", secret" if attribute.secret else ""
        rows.append(f"| `{name}` | {use} | {attribute.type}{secret} | {_remarks(attribute)} |")
    return "\n".join(rows) + "\n"


def _remarks(attribute: Attribute) -> str:
    remarks = [attribute.description] if attribute.description else []
    if isinstance(attribute.pattern, str):
        remarks.append(f"one of {_code(attribute.pattern)}" if "|" in attribute.pattern else _code(attribute.pattern))
    elif attribute.pattern is not None:
        remarks.append(_code(json.dumps(attribute.pattern, sort_keys=True)))
    if attribute.default is not None:
        remarks.append(f"default {_code(json.dumps(attribute.default))}")
    return "; ".join(remarks).replace("\n", " ")


def _code(text: str) -> str:
    # A bar would end the cell, even in code.
    return f"`{text}`".replace("|", "\\|")


def _claims() -> Iterator[str]:
    audiences = [tokens.AUDIENCE_CLOUD_CONTROLLER, tokens.AUDIENCE_SERVICE_MANAGER]
    yield "| claim | value |\n| --- | --- |"
    listed = ", ".join([f"`{each}`" for each in audiences])
    yield f"| `sub` | `{tokens.subject_of_instance('<uuid>')}` or `{tokens.subject_of_service_manager('<name>')}` |"
    yield f"| `aud` | {listed}, `{tokens.audience_of_orchestrator('<uuid>')}`, or the type of another service manager's service |"
    yield f"| `{tokens.CLAIM_TENANT}` | the tenant |"
    yield f"| `{tokens.CLAIM_INSTANCE}` | the instance, if the token is about one |"
    yield f"| `exp` | at most {tokens.LIFETIME} s after `iat` |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
