"""`self.deployment`: stacks. An author states the desired stacks; this module sends the requests and waits for the results.

A template is sent unchanged, with the files that it names and the values of the parameters that it declares: the platform fills
them in, so templates never contain secrets. All values but the tenant's own plain attributes are sent as secrets.

Deploy notifies of every change of a stack. So what was read of a stack that works is used until a notification about it arrives,
and after a while, since the states of its resources are not notified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import bundles
from archelon_api import deploy, names
from archelon_core.backoff import Backoff
from occi_service import client

from . import templates
from .catalogue import Design
from .errors import Failure, StackFailure
from .events import IdempotencyScope
from .instance import Instance
from .ports import Service, Waiter

_LOG = logging.getLogger("archelon.sdk")
#: Seconds between two polls of a stack. A notification ends the wait at once.
_PAUSES: Final = Backoff(0.5, longest=10.0)
#: Seconds for which a stack is not read again without a notification.
_KEPT: Final = 60.0

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """A virtual resource of a stack; `kind` is its OCCI kind: compute, network, storage, or empty."""

    name: str
    type: str
    id: str
    state: str
    kind: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """A stack as last read.

    Attributes:
        path: at deploy. name, region, format: as ordered.
        state: in Heat's terms, such as CREATE_COMPLETE; reason: its cause, as text; refused: whether no retry cures it.
        health: at present: healthy, degraded, down, or empty if it is not known yet; health_message: what is wrong.
        id: the platform's.
        outputs: by name.
    """

    path: str
    name: str
    region: str
    format: str = ""
    state: str = ""
    reason: str = ""
    id: str = ""
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    resources: Sequence[Resource] = ()
    health: str = ""
    health_message: str = ""
    refused: bool = False

    @property
    def in_progress(self) -> bool:
        """Whether an operation is in progress."""
        return self.state.endswith("_IN_PROGRESS") or not self.state

    @property
    def failed(self) -> bool:
        """Whether the last operation has failed."""
        return self.state.endswith("_FAILED") or self.state.startswith("ROLLBACK")


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """What is known of a path: its stack, or None; the notifications about it before; and the time, by the waiter's clock."""

    stack: Stack | None
    heard: int
    at: float = -math.inf


class Deployment:
    """Stacks of one instance.

    Args:
        design: the catalogue.
        instance: returns the instance in its present state.
        bundle: templates and files.
        waiter: clock and cancellable waits.
        scope: derives idempotency keys.
    """

    def __init__(
        self,
        design: Design,
        instance: Callable[[], Instance],
        *,
        bundle: bundles.Bundle,
        waiter: Waiter,
        scope: IdempotencyScope,
    ) -> None:
        self._design = design
        self._instance = instance
        self._bundle = bundle
        self._waiter = waiter
        self._scope = scope
        #: By path, of every stack that this instance has or had; empty before the first list.
        self._known: dict[str, _Read] = {}
        #: Notifications about other objects before the last list; None without one.
        self._heard_of_others: int | None = None

    @property
    def _service(self) -> Service:
        self._waiter.check()
        return self._design.cloud(deploy.SCHEME)

    @property
    def url(self) -> str:
        """The URL of deploy."""
        return self._design.module(deploy.SCHEME).url.rstrip("/")

    # present state ----------------------------------------------------------------------------------------------------

    def stacks(self) -> list[Stack]:
        """Return the instance's stacks, by name and region."""
        self._list()
        found = [each for path in [*self._known] if (each := self._present(path)) is not None]
        return sorted(found, key=lambda each: (each.name, each.region))

    def _list(self) -> None:
        """Learn which stacks there are, if that is not known: only this process orders some, or a notification names them."""
        total = self._waiter.heard()
        if self._heard_of_others == total - sum(map(self._waiter.heard, self._known)):
            return
        for each in self._service.list(deploy.STACK.location, attributes={names.INSTANCE: self._instance().id}):
            # Outputs may be secret, so the list does not contain them.
            self._known.setdefault(each.location, _Read(None, self._waiter.heard(each.location)))
        self._heard_of_others = total - sum(map(self._waiter.heard, self._known))

    def _present(self, path: str) -> Stack | None:
        """Return the stack at a path, or None."""
        self._waiter.check()
        known = self._known.get(path)
        if known is None:
            return None
        is_settled = known.stack is None or not (known.stack.in_progress or known.stack.failed)
        if is_settled and known.heard == self._waiter.heard(path) and self._waiter.now() - known.at < _KEPT:
            return known.stack
        try:
            return self._read(path)
        except client.NotFoundError:
            return None

    def _read(self, path: str) -> Stack:
        """Read a stack. Raises client.NotFoundError."""
        heard, now = self._waiter.heard(path), self._waiter.now()
        try:
            stack = _stack(self._service.get(path))
        except client.NotFoundError:
            self._known[path] = _Read(None, heard, now)
            raise
        self._known[path] = _Read(stack, heard, now)
        return stack

    def _ordering(self, path: str) -> Service:
        """Return deploy, for a request that changes a stack: what is heard of it from now on may be the result."""
        self._known[path] = _Read(None, self._waiter.heard(path))
        return self._service

    def _await_change(self, path: str, seconds: float) -> None:
        """Wait until something has been heard of a stack since it was read or ordered, or this long."""
        total = self._waiter.heard()
        if path not in self._known or self._known[path].heard == self._waiter.heard(path):
            self._waiter.wait(seconds, total)

    def stack(self, name: str | None = None, *, region: str | None = None) -> Stack:
        """Return one stack: the only one, or the one of this name and region.

        Raises:
            Failure: there is none, or several match.
        """
        found = [each for each in self.stacks() if name in (None, each.name) and region in (None, each.region)]
        if len(found) != 1:
            present = ", ".join(f"{each.name} in {each.region}" for each in found) or "none"
            raise Failure(f"expected one stack {name or ''} {region or ''}; found {present}".replace("  ", " "))
        return found[0]

    def output(self, name: str, *, stack: str | None = None, region: str | None = None) -> Any:
        """Return an output of a stack. Raises Failure if it has none of this name."""
        found = self.stack(stack, region=region)
        if name not in found.outputs:
            raise Failure(f"the stack {found.name} has no output {name}; it has {', '.join(found.outputs) or 'none'}")
        return found.outputs[name]

    def regions(self) -> Sequence[str]:
        """Return the regions of this instance: the tenant's choice, else the manifest's, else deploy's first."""
        region = self._instance().region
        if region:
            return [region]
        return list(self._bundle.manifest.resources) or self._design.regions(deploy.SCHEME)[:1]

    # desired state ----------------------------------------------------------------------------------------------------

    def deploy(self, values: Mapping[str, Any] | None = None, *, provision: bool = False) -> list[Stack]:
        """Order the manifest's templates as stacks, one per region, all at once, and wait until they are complete.

        Args:
            values: further parameters, such as suppliers' attributes; the instance's own take precedence.
            provision: use the manifest's templates for provisioning, if it has some.

        Raises:
            StackFailure: a stack has failed. Failure: the manifest has no template for a region.
        """
        made = [self._deploy_to(region, values or {}, provision=provision) for region in self._deployable()]
        return [self.wait(each) for each in made]

    def _deployable(self) -> Sequence[str]:
        manifest = self._bundle.manifest
        if not manifest.templates and not any(each.templates for each in manifest.resources.values()):
            return []
        return self.regions()

    def _deploy_to(self, region: str, values: Mapping[str, Any], *, provision: bool) -> Stack:
        manifest = self._bundle.manifest
        chosen = self._formats(region)
        if len(chosen) > 1:
            # A stack keeps the format that it was created in.
            standing = self._format_of(deploy.stack_path(self._instance().id, manifest.term, region))
            chosen = [each for each in chosen if each[0] == standing] or chosen
        refusals: list[str] = []
        for template_format, found in chosen:
            path = found.provision if provision and found.provision else found.deployment
            try:
                return self.put(
                    manifest.term, path, template_format, region=region, values=values, environments=found.environments
                )
            except client.BadRequestError as error:
                # The manifest has several formats, and the platform rejects those that it does not support.
                if error.where != deploy.STACK_FORMAT or len(chosen) == 1:
                    raise StackFailure(
                        f"the region {region} refuses the template {path}: {error.message}", permanent=True
                    ) from error
                refusals.append(error.message)
        reasons = "; ".join(refusals) or "the manifest has no template for it"
        raise Failure(f"this service cannot be deployed to the region {region}: {reasons}", permanent=True)

    def _format_of(self, path: str) -> str:
        """The format of an existing stack, or an empty string."""
        self._list()
        present = self._present(path)
        return "" if present is None else present.format

    def _formats(self, region: str) -> list[tuple[str, bundles.Templates]]:
        manifest = self._bundle.manifest
        resources = manifest.resources.get(region)
        if resources is not None and resources.templates is not None:
            return [(resources.format or "hot", resources.templates)]
        wanted = [resources.format] if resources is not None and resources.format else list(manifest.templates)
        return [(each, manifest.templates[each]) for each in wanted if each in manifest.templates]

    def put(
        self,
        name: str,
        template: str,
        template_format: str,
        *,
        region: str,
        values: Mapping[str, Any] | None = None,
        environments: Sequence[str] = (),
    ) -> Stack:
        """Order a stack or its change, and return at once; `wait` waits for it.

        Args:
            name: chosen by the orchestrator.
            template: path in the bundle.
            values: further parameters; the instance's own take precedence.
            environments: paths of Heat environments in the bundle.

        Raises:
            client.BadRequestError: deploy rejects the template.
        """
        document = templates.Document.read(self._bundle, template, template_format, environments)
        plain, secret = self._parameters(document, region, values or {})
        attributes: dict[str, Any] = {
            **self._instance().labels,
            deploy.STACK_NAME: name,
            names.REGION: region,
            deploy.STACK_FORMAT: template_format,
            deploy.STACK_TEMPLATE: document.text,
            deploy.STACK_SOURCE: template,
            deploy.STACK_FILES: document.files,
            deploy.STACK_ROLLBACK: self._bundle.manifest.on_failed_create is bundles.OnFailedCreate.ROLLBACK,
            deploy.STACK_PARAMETERS: plain,
            deploy.STACK_SECRET_PARAMETERS: secret,
        }
        if environments:
            attributes[deploy.STACK_ENVIRONMENTS] = list(environments)
        path = deploy.stack_path(self._instance().id, name, region)
        self._list()
        self._remove_failed(path)
        service = self._ordering(path)
        shown, _ = service.put(path, deploy.STACK.scheme + deploy.STACK.term, attributes, read=False)
        return _stack(shown)

    def _parameters(
        self, document: templates.Document, region: str, values: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        manifest, instance = self._bundle.manifest, self._instance()
        resources = manifest.resources.get(region)
        regional = resources.parameters if resources is not None else {}
        known = {**values, **instance.internal, **instance.parameters, **regional}
        known.setdefault(names.REGION, region)
        own = {
            name
            for name in instance.parameters
            if name not in regional and name in manifest.attributes and not manifest.attributes[name].secret
        }
        plain: dict[str, Any] = {}
        secret: dict[str, Any] = {}
        for name in document.parameters:
            if known.get(name) is not None:
                (plain if name in own or name == names.REGION else secret)[name] = known[name]
        return plain, secret

    def _remove_failed(self, path: str) -> None:
        """Remove a stack whose creation failed: the same order again would change nothing."""
        present = self._present(path)
        if present is None:
            return
        if (present.failed and not present.state.startswith("UPDATE")) or present.state.startswith("DELETE"):
            self.dispose(present)

    def wait(self, stack: Stack) -> Stack:
        """Wait until no operation on a stack is in progress, and return it.

        Raises:
            StackFailure: it has failed.
        """
        pauses = iter(_PAUSES)
        while stack.in_progress:
            self._await_change(stack.path, next(pauses))
            stack = self._read(stack.path)
        if stack.failed:
            reason = stack.reason or "no reason given"
            raise StackFailure(
                f"the stack {stack.name} in {stack.region} is {stack.state}: {reason}", permanent=stack.refused
            )
        return stack

    def scale(self, node: str, *, count: int | None = None, by: int | None = None, stack: str | None = None) -> bool:
        """Change the number of instances of a node, and wait for it.

        It takes effect once, even if another process handles the same event again.

        Args:
            count, by: one of the two: the new number, or the difference.

        Returns:
            Whether it was changed. False if the template does not permit it.
        """
        if (count is None) == (by is None):
            raise ValueError("expected one of count and by")
        found = self._retried(lambda: self.stack(stack))
        attributes: dict[str, Any] = {deploy.SCALE_NODE: node, deploy.SCALE_KEY: self._scope.key(found.path, node)}
        attributes |= {deploy.SCALE_COUNT: count} if count is not None else {deploy.SCALE_BY: by}
        try:
            self._retried(lambda: self._act(found, deploy.SCALE, attributes))
        except client.ConflictError as error:
            _LOG.info("%s not scaled: %s", node, error.message)
            return False
        self._retried(lambda: self.wait(self._read(found.path)))
        return True

    def _retried(self, call: Callable[[], Result]) -> Result:
        """Call, and retry for about half a minute while the service is unavailable.

        The service manager repeats a failed phase; an event whose handler failed is not repeated.
        """
        pauses = iter(_PAUSES)
        while True:
            pause = next(pauses)
            try:
                return call()
            except (client.TransportError, client.UnavailableError):
                if pause >= _PAUSES.longest:
                    raise
            self._waiter.wait(pause)

    def suspend(self) -> None:
        """Stop what the stacks run, and keep the stacks."""
        self._all(deploy.SUSPEND)

    def resume(self) -> None:
        """Start what the stacks run again."""
        self._all(deploy.RESUME)

    def _all(self, action: Any) -> None:
        found = self.stacks()
        for each in found:
            self._act(each, action, {})
        for each in found:
            self.wait(self._read(each.path))

    def _act(self, stack: Stack, action: Any, attributes: Mapping[str, Any]) -> None:
        self._ordering(stack.path).act(stack.path, action.scheme + action.term, attributes)

    def dispose(self, stack: Stack | None = None) -> None:
        """Remove a stack, or all stacks of the instance, and wait until they are gone.

        Raises:
            StackFailure: a stack cannot be removed.
        """
        leaving = [stack] if stack is not None else self.stacks()
        for each in leaving:
            with contextlib.suppress(client.NotFoundError):
                self._ordering(each.path).delete(each.path)
        for each in leaving:
            self._await_absence(each)

    def _await_absence(self, stack: Stack) -> None:
        for pause in _PAUSES:
            self._await_change(stack.path, pause)
            try:
                seen = self._read(stack.path)
            except client.NotFoundError:
                return
            if seen.state == "DELETE_FAILED":
                raise StackFailure(f"the stack {seen.name} in {seen.region} cannot be removed: {seen.reason}")


def _stack(shown: client.Entity) -> Stack:
    get = shown.attributes.get
    resources = get(deploy.STACK_RESOURCES) or ()
    return Stack(
        path=shown.location,
        name=str(get(deploy.STACK_NAME, "")),
        region=str(get(names.REGION, "")),
        format=str(get(deploy.STACK_FORMAT, "")),
        state=str(get(deploy.STACK_STATE, "")),
        reason=str(get(deploy.STACK_REASON) or ""),
        id=str(get(deploy.STACK_ID) or ""),
        outputs=get(deploy.STACK_OUTPUTS) or {},
        resources=[
            Resource(*[str(each.get(name, "")) for name in ("name", "type", "id", "state", "kind")])
            for each in resources
        ],
        health=str(get(deploy.STACK_HEALTH) or ""),
        health_message=str(get(deploy.STACK_HEALTH_MESSAGE) or ""),
        refused=get(deploy.STACK_RETRY) is False,
    )
