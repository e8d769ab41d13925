"""Limits on the number of a tenant's instances. Pure arithmetic: the transaction that places the order does the counting.

A count from outside that transaction would let two concurrent orders both pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .errors import QuotaExceededError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A tenant's present instances: failed ones count, deleted ones do not.

    Attributes:
        instances: instances of all services.
        of_service: instances of the ordered service.
    """

    instances: int
    of_service: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Limits on instances; None means no limit, 0 means none allowed.

    Attributes:
        default: instances of all services, for each tenant.
        per_service: instances of one service (by its kind's type identifier), for each tenant.
    """

    default: int | None = None
    per_service: Mapping[str, int | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for where, limit in self._limits():
            if limit is not None and limit < 0:
                raise ValueError(f"quota {where} is {limit}: a limit is 0 or more, or absent for no limit")

    def check(self, counts: Counts, *, service: str) -> None:
        """Check that a tenant with these counts may have one more instance of `service`.

        Raises:
            QuotaExceededError: it would exceed a limit.
        """
        limit = self.default
        if limit is not None and counts.instances >= limit:
            raise QuotaExceededError(
                f"This tenant may have {limit} instances and has {counts.instances}. "
                "Delete one, or ask the operator for a higher limit.",
                where="quota",
            )
        limit = self.per_service.get(service)
        if limit is not None and counts.of_service >= limit:
            raise QuotaExceededError(
                f"A tenant may have {limit} instances of {service}; this one has {counts.of_service}. "
                "Delete one, or ask the operator for a higher limit.",
                where="quota",
            )

    def _limits(self) -> list[tuple[str, int | None]]:
        return [("default", self.default), *((f"of service {name}", limit) for name, limit in self.per_service.items())]
