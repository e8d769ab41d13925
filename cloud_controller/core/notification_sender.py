"""Delivers notices over OCCI, each call with a token for that one orchestrator."""

from __future__ import annotations

from archelon_api import orchestrator, tokens
from archelon_core import auth
from occi_service import client

from .notifications import Notice


class Sender:
    """A `notices.Send`.

    Args:
        issuer: signs the tokens.
        seconds: that one call may take.
    """

    def __init__(self, issuer: auth.TokenIssuer, *, seconds: float = 5.0) -> None:
        self._issuer = issuer
        self._timeout = client.Timeout(total=seconds)

    def __call__(self, notice: Notice) -> None:
        """Deliver it. Raises ClientError; UnavailableError where the orchestrator has it, and it is to be told again."""
        assert notice.url, "a notice leaves when its application has an address"
        token = self._issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(notice.tenant),
            audience=tokens.audience_of_orchestrator(notice.instance),
            instance_id=notice.instance,
        )
        # One attempt: the queue repeats, with the newest notice.
        once = client.Retry(attempts=1)
        with client.Client(notice.url, token=token, timeout=self._timeout, retry=once) as occi:
            occi.act(orchestrator.PATH, orchestrator.NOTIFY.scheme + orchestrator.NOTIFY.term, notice.attributes)
