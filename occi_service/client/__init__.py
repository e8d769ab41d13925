"""The OCCI client of tenants' programs, orchestrators and Archelon's services.

Its arguments are paths, type identifiers and plain values; its results are frozen `Entity`s, its errors typed. It shares the
renderings with the server. urllib3's connections transport the requests; a layer above them enforces one deadline per call,
retries only idempotent requests, and sends the token to the configured host only.

    from occi_service import client

    with client.Client("https://occi.example.org", token=token) as occi:
        path = occi.create("http://schemas.ogf.org/occi/infrastructure#compute", {"occi.compute.cores": 2})
        for entity in occi.list("/compute/"):
            print(entity.location, entity.attributes)
"""

from __future__ import annotations

from ..renderings.documents import AttributeDocument, CategoryDocument, EntityDocument, Reference
from .client import Client
from .conversation import ANY
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
    "ANY",
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
