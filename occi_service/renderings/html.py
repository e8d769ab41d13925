"""`text/html`: the same resources for a browser, readable and navigable without scripts.

All pages come from one template with autoescaping. They load nothing from other hosts; the headers enforce this, so that markup
in a value stays inert even if escaping failed.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

from . import CategoryDocument, Collection, EntityDocument, ErrorDocument, Payload, Rendering

_HEADERS: Final = (
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


@functools.cache
def _template() -> Any:
    # Loaded with the first page: most processes never render one.
    import jinja2

    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value"] = _value
    environment.filters["href"] = _href
    environment.filters["term"] = _term
    return environment.from_string(source)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def _href(uri: str) -> str:
    """Return a URI that is safe in a link: local paths and http(s); `#` for anything else (`javascript:`)."""
    return uri if uri.startswith(("/", "http://", "https://")) and not uri.startswith("//") else "#"


def _term(type_id: str) -> str:
    return type_id.rpartition("#")[2]


class Html(Rendering):
    """Pages for people; written, never read."""

    mime_type = "text/html"
    content_type = "text/html; charset=utf-8"
    shows_entities = True

    def __init__(self, registry: Any = None, *, prefix: str = "") -> None:
        super().__init__(registry)
        self._prefix = prefix

    def mounted_at(self, prefix: str) -> Html:
        return Html(self.registry, prefix=prefix) if prefix else self

    def _page(self, title: str, **shown: Any) -> Payload:
        context: dict[str, Any] = {"entity": None, "collection": None, "categories": None, "error": None}
        context["prefix"] = self._prefix
        return Payload(_template().render(title=title, **context | shown).encode(), _HEADERS)

    def write_entity(self, entity: EntityDocument) -> Payload:
        return self._page(entity.title or entity.location or entity.id or "entity", entity=entity)

    def write_collection(self, collection: Collection) -> Payload:
        return self._page("Collection", collection=collection)

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        return self._page("Query interface", categories=categories)

    def write_done(self) -> Payload:
        return self._page("Done")

    def write_error(self, error: ErrorDocument) -> Payload:
        return self._page(f"{error.status} {error.title}", error=error)
