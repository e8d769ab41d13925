"""Renderings: read and write documents. Pure functions of bytes and header fields, shared by server and client.

To add one, derive from `Rendering`, implement the documents it can hold, and pass an instance to
`occi_service.Application(renderings=…)`.
"""

from .base import ErrorDocument, Message, Payload, Rendering, UnsupportedDocumentError
from .documents import (
    ActionDocument,
    AttributeDocument,
    Bare,
    CategoryDocument,
    Collection,
    Document,
    EntityDocument,
    MalformedDocumentError,
    Reference,
)
from .json import Json, JsonPyssf, PlainJson
from .text import TextOcci, TextOcciHurtle, TextOcciPlain, TextPlain
from .uri_list import UriList

__all__ = [
    "ActionDocument",
    "AttributeDocument",
    "Bare",
    "CategoryDocument",
    "Collection",
    "Document",
    "EntityDocument",
    "ErrorDocument",
    "Json",
    "JsonPyssf",
    "MalformedDocumentError",
    "Message",
    "Payload",
    "PlainJson",
    "Reference",
    "Rendering",
    "TextOcci",
    "TextOcciHurtle",
    "TextOcciPlain",
    "TextPlain",
    "UnsupportedDocumentError",
    "UriList",
]
