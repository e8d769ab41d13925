"""`text/uri-list` (RFC 2483): one location per line. It supports collections and category locations, but no single entity."""

from __future__ import annotations

from . import grammar
from .base import ErrorDocument, Message, Payload, Rendering
from .documents import CategoryDocument, Collection, MalformedDocumentError
from .text import lines


class UriList(Rendering):
    """One URI per line; lines that begin with `#` are comments. Written lines end in LF, not RFC 2483's CRLF, which scripts take
    for a part of the URI (docs/adr/038); lines are read with either end.
    """

    mime_type = "text/uri-list"
    content_type = "text/uri-list; charset=utf-8"
    holds_entities = False

    def read_collection(self, message: Message) -> Collection:
        locations = []
        for number, line in enumerate(lines(message.body), start=1):
            text = line.removesuffix("\r").strip(" \t")
            if not text or text.startswith("#"):
                continue
            found = grammar.parse_locations(text, f"line {number}")
            if len(found) != 1:
                raise MalformedDocumentError("expected one URI on a line", f"line {number}")
            locations += found
        return Collection(locations=locations)

    def write_collection(self, collection: Collection) -> Payload:
        return Payload("".join([grammar.uri_text(each) + "\n" for each in collection.locations]).encode())

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        locations = [each.location for each in categories if each.location is not None]
        return self.write_collection(Collection(locations=locations))

    def write_done(self) -> Payload:
        return Payload(b"# OK\n")

    def write_error(self, error: ErrorDocument) -> Payload:
        text = super().write_error(error).body.decode()
        return Payload("".join([f"# {line}\n" for line in text.splitlines()]).encode())
