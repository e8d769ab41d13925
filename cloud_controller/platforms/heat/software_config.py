"""Configures the servers of a stack by Heat's software deployments, carried out by agents in the servers (os-collect-config).

Each configuration is a separate stack in Heat: an `OS::Heat::SoftwareConfig` and one `OS::Heat::SoftwareDeployment` per server
of the node. The plain deployments API is not used: without a resource, the agent has nothing to signal with unless the cloud has
Swift or Zaqar. A stack carries our tags, so disposal finds it after a crash, and Heat itself removes replaced deployments.

Content: `{"config": text, "values": {name: value}, "group": "script", "inputs": {name: value}, "outputs": [name, …],
"options": {name: value}, "signal": transport, "timeout": seconds}`; all but config are optional. Tenants' values belong in
inputs, which agents pass on as values. With `values` the config is a text template: each value passes a quoting filter, and it
is rendered in a child process (`archelon_core.templates.text`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heatclient.v1.client import Client

from archelon_core.templates import text as text_templates

from ...core.labels import Labels
from ..interface import ConfigurationOrder, Configured, ProvisionError
from .connection import ConflictError, NotFoundError
from .orders import labels_of, tag_value, tags_of
from .resources import failures, is_deletion_stalled, resources_of
from .targets import found_servers

_PARTS: Final = ("config", "values", "group", "inputs", "outputs", "options", "signal", "timeout")
_SIGNALS: Final = ("CFN_SIGNAL", "HEAT_SIGNAL", "TEMP_URL_SIGNAL", "ZAQAR_SIGNAL")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_LONGEST_CONFIG: Final = 256 * 1024
#: Timeout of a configuration in seconds: minimum, default, maximum.
_TIMEOUT: Final = (60, 3600, 86400)
#: Maximum characters shown of one output, and of all.
_SHOWN: Final = 4096
_SHOWN_ALL: Final = 64 * 1024
#: Tag with the attempt for which the stack was created or last updated.
_TRIED: Final = "archelon-tried="
#: Prefix of the name of a server's deployment.
_ON: Final = "on."
_DEPLOYMENT: Final = "OS::Heat::SoftwareDeployment"
_OWN_OUTPUTS: Final = frozenset({"deploy_stdout", "deploy_stderr", "deploy_status_code"})

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Software:
    """A software configuration for a server.

    Args:
        config: text; with values, a template. group: the agent's hook that runs it, such as `script`.
        signal: the signal transport; empty for Heat's default. timeout: seconds for all servers.
    """

    config: str = field(repr=False)
    values: Mapping[str, Any] | None = field(repr=False)
    group: str
    inputs: Mapping[str, Scalar] = field(repr=False)
    outputs: Sequence[str]
    options: Mapping[str, Scalar]
    signal: str
    timeout: float

    def revision(self, servers: Mapping[str, str]) -> str:
        """Return a digest of the configuration and of its servers (ids by path in the stack)."""
        content = json.dumps([vars(self), dict(servers)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def software_of(content: Mapping[str, Any]) -> Software:
    """Parse a configuration's content. Raises ProvisionError, without values in its text."""
    unknown = sorted(str(each)[:40] for each in content.keys() - set(_PARTS))
    if unknown:
        raise ProvisionError(
            f"unknown parameter of software-config: {', '.join(unknown)}; expected one of {', '.join(_PARTS)}"
        )
    get = content.get
    config, values, group, signal = get("config"), get("values"), get("group", "script"), get("signal", "")
    if not isinstance(config, str) or not config:
        raise ProvisionError("software-config needs a config, the text that the agent in the server runs")
    if len(config) > _LONGEST_CONFIG:
        raise ProvisionError(f"the config is longer than {_LONGEST_CONFIG} characters; have it download large files")
    if values is not None and not isinstance(values, dict):
        raise ProvisionError("values must be an object of names that the config refers to, and their values")
    if not isinstance(group, str) or _NAME.fullmatch(group) is None:
        raise ProvisionError("the group must be the name of a hook of the agent, such as script or ansible")
    if signal and signal not in _SIGNALS:
        raise ProvisionError(f"expected one of {', '.join(_SIGNALS)} as signal; omit it for the cloud's default")
    outputs = get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in outputs):
        raise ProvisionError("outputs must be a list of names")
    if taken := _OWN_OUTPUTS.intersection(outputs):
        raise ProvisionError(f"the output {min(taken)} is always returned; remove it from outputs")
    timeout = get("timeout", _TIMEOUT[1])
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not _TIMEOUT[0] <= timeout <= _TIMEOUT[2]:
        raise ProvisionError(f"the timeout must be a number of seconds from {_TIMEOUT[0]} to {_TIMEOUT[2]}")
    return Software(
        config,
        values,
        group,
        _scalars(get("inputs", {}), "inputs"),
        tuple(dict.fromkeys(outputs)),
        _scalars(get("options", {}), "options"),
        signal,
        float(timeout),
    )


def _scalars(given: Any, part: str) -> Mapping[str, Scalar]:
    # No structured values: Heat could evaluate them as functions.
    if not isinstance(given, dict) or not all(isinstance(each, str | int | float) for each in given.values()):
        raise ProvisionError(f"{part} must be an object of names and texts, numbers or booleans")
    if wrong := [str(name)[:40] for name in given if not isinstance(name, str) or _NAME.fullmatch(name) is None]:
        raise ProvisionError(f"{part} has {wrong[0]!r}, which is not a valid name")
    return dict(given)


class SoftwareDeployments:
    """Carries out one reconcile step of a configuration.

    Args:
        client: of Heat, in the tenant's project. labels: of the instance.
        stack: path of the stack with the servers.
        clock: seconds since the epoch.
    """

    def __init__(
        self, client: Client, labels: Labels, stack: str = "", *, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._client = client
        self._labels = labels
        self._stack = stack

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Create or update the deployments and return their state. Raises ProvisionError, DeployError."""
        software = software_of(order.content)
        servers = {each.path: each.id for each in found_servers(self._client, self._stack, order.node)}
        if not servers:
            raise ProvisionError(f"the stack has no server {order.node!r}")
        present = self._present(order)
        if present is None:
            with contextlib.suppress(ConflictError):
                # A conflict: a concurrent or repeated call has created it.
                body = self._body(order, software, servers)
                self._client.stacks.create(stack_name=_name(order), disable_rollback=True, **body)
            return Configured("waiting", "sent to Heat")
        path = f"{present.stack_name}/{present.id}"
        status = present.stack_status.rpartition("_")[2]
        is_ordered = labels_of(present.tags)[1] == software.revision(servers)
        is_tried = tag_value(present.tags, _TRIED) == str(order.attempt)
        if present.stack_status.startswith("DELETE"):
            return Configured("waiting", "Heat is removing a previous configuration")
        if not is_ordered or (status == "FAILED" and not is_tried):
            try:
                self._client.stacks.update(path, disable_rollback=True, **self._body(order, software, servers))
            except ConflictError:
                return Configured("waiting", "Heat is still applying a previous configuration")
            return Configured("waiting", "sent to Heat")
        if status == "PROGRESS":
            return Configured("waiting", f"waiting for the servers of {order.node}")
        return self._result(path, present, failed=status == "FAILED")

    def remove(self, order: ConfigurationOrder) -> bool:
        """Delete config and deployments, without changes to the servers. True once nothing is left."""
        present = self._present(order)
        if present is None:
            return True
        if present.stack_status != "DELETE_IN_PROGRESS" or is_deletion_stalled(present, self._clock()):
            with contextlib.suppress(NotFoundError):
                self._client.stacks.delete(f"{present.stack_name}/{present.id}")
        return False

    def _present(self, order: ConfigurationOrder) -> Any:
        try:
            found = self._client.stacks.get(_name(order), resolve_outputs=False)
        except NotFoundError:
            return None
        return None if found.stack_status == "DELETE_COMPLETE" else found

    def _body(self, order: ConfigurationOrder, software: Software, servers: Mapping[str, str]) -> dict[str, Any]:
        """Return the request's body. Raises ProvisionError."""
        config = software.config
        if software.values is not None:
            try:
                config = text_templates.render(config, software.values, name="config")
            except text_templates.TemplateError as problem:
                raise ProvisionError(str(problem)) from problem
        tags = [*tags_of(self._labels, software.revision(servers)), f"{_TRIED}{order.attempt}"]
        return {
            "template": _template(software, servers),
            "parameters": {"text": config, "inputs": dict(software.inputs)},
            "timeout_mins": max(1, round(software.timeout / 60)),
            "tags": ",".join(tags),
        }

    def _result(self, path: str, present: Any, *, failed: bool) -> Configured:
        """Return the servers' outputs, by their path in the stack."""
        found = resources_of(self._client, path)
        results: dict[str, dict[str, Any]] = {}
        problems = []
        for each in found:
            if each.type != _DEPLOYMENT or not each.id:
                continue
            try:
                deployment = self._client.software_deployments.get(each.id)
            except NotFoundError:
                continue
            outputs = {name: _truncated(value) for name, value in (deployment.output_values or {}).items()}
            server = each.path.removeprefix(_ON)
            results[server] = outputs
            if deployment.status == "FAILED":
                output = str(outputs.get("deploy_stderr") or outputs.get("deploy_stdout") or "")
                problems.append(": ".join(part for part in (server, str(deployment.status_reason), output) if part))
        if failed:
            reason = "; ".join(problems) or failures(found) or str(present.stack_status_reason or "")
            return Configured("failed", " ".join(reason.split())[:_SHOWN])
        text = json.dumps(results, sort_keys=True)
        if len(text) > _SHOWN_ALL:
            return Configured("failed", f"the servers returned more than {_SHOWN_ALL} characters; reduce their output")
        return Configured("done", text)


def _name(order: ConfigurationOrder) -> str:
    return f"configuration-{order.id}"


def _template(software: Software, servers: Mapping[str, str]) -> dict[str, Any]:
    """Return the template; texts and values are parameters, so that Heat evaluates no functions in them."""
    config = {
        "group": software.group,
        "config": {"get_param": "text"},
        "inputs": [{"name": name} for name in software.inputs],
        "outputs": [{"name": name} for name in software.outputs],
        "options": dict(software.options),
    }
    deployment: dict[str, Any] = {"config": {"get_resource": "config"}, "input_values": {"get_param": "inputs"}}
    if software.signal:
        deployment["signal_transport"] = software.signal
    resources: dict[str, Any] = {"config": {"type": "OS::Heat::SoftwareConfig", "properties": config}}
    for path, server in servers.items():
        resources[_ON + path] = {"type": _DEPLOYMENT, "properties": {**deployment, "server": server}}
    return {
        "heat_template_version": "2018-08-31",
        "parameters": {"text": {"type": "string", "hidden": True}, "inputs": {"type": "json", "hidden": True}},
        "resources": resources,
    }


def _truncated(value: Any) -> Any:
    return value[:_SHOWN] if isinstance(value, str) else value
