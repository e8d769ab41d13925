"""OCCI from the other side: what tenants' programs, orchestrators and our own services call one another with.

What flows in: paths, type identifiers and plain values; what flows out: frozen `Entity`s, or one of the typed errors.
The renderings are the server's own, so that what one writes the other reads. urllib3's connections carry it; a layer of
our own above them gives every call one deadline, retries only what may be repeated, and sends the token nowhere but to
the configured host.

    from occi_service import client

    with client.Client("https://occi.example.org", token=token) as occi:
        path = occi.create("http://schemas.ogf.org/occi/infrastructure#compute", {"occi.compute.cores": 2})
        for entity in occi.list("/compute/"):
            print(entity.location, entity.attributes)
"""

from __future__ import annotations

from ..renderings.documents import AttributeDocument, CategoryDocument, EntityDocument, Reference
from .client import Client
from .entities import Entity
from .errors import (
    AnswerError,
    AnswerTooLargeError,
    BadRequestError,
    ClientError,
    ConflictError,
    ForbiddenError,
    MalformedAnswerError,
    MethodNotAllowedError,
    NotAcceptableError,
    NotFoundError,
    NotImplementedByServerError,
    PreconditionFailedError,
    RedirectError,
    ServerError,
    StatusError,
    TimedOutError,
    TooLargeError,
    TooManyRequestsError,
    TransportError,
    UnauthorizedError,
    UnavailableError,
    UnknownCategoryError,
    UnsupportedMediaTypeError,
)
from .limits import Retry, Timeout
from .speech import MediaType

__all__ = [
    "AnswerError",
    "AnswerTooLargeError",
    "AttributeDocument",
    "BadRequestError",
    "CategoryDocument",
    "Client",
    "ClientError",
    "ConflictError",
    "Entity",
    "EntityDocument",
    "ForbiddenError",
    "MalformedAnswerError",
    "MediaType",
    "MethodNotAllowedError",
    "NotAcceptableError",
    "NotFoundError",
    "NotImplementedByServerError",
    "PreconditionFailedError",
    "RedirectError",
    "Reference",
    "Retry",
    "ServerError",
    "StatusError",
    "TimedOutError",
    "Timeout",
    "TooLargeError",
    "TooManyRequestsError",
    "TransportError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownCategoryError",
    "UnsupportedMediaTypeError",
]
