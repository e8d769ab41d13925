"""A small valid infrastructure description, for bundles whose infrastructure does not matter."""

from __future__ import annotations


def description(parameters: str = "{}", *, command: str = "[sleep, '9']") -> str:
    """The text; `parameters` and the node's `command` in YAML."""
    return (
        f"infra_name: demo\nparameters: {parameters}\nnodes: [{{name: web, type: t}}]\n"
        f"'node_def:t': [{{resource: {{type: process, command: {command}}}}}]\n"
    )
