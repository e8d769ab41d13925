"""Descriptions of infrastructures in Occopus' words: read, check, plan.

In: a description's text with the files that came along, parameters, and what is seen on the platform. Out: the steps possible
now. `parsing` reads, `resolving` puts values in, `planning` compares; none of them calls out. What a node is made of is a
resource type (`resources`), found by entry point.
"""

from .apart import check_description, manifest_problems
from .description import Description, Health, Implementation, Node
from .parsing import parse
from .planning import Action, Attempts, Ensure, Halt, Plan, Record, Remove, Status, Step, noted, plan, scaled
from .rendering import DescriptionError, Place, Scalar, Value
from .resolving import Wanted, checked_parameters, outputs
from .resources import Condition, NodeError, ObservedNode, ResourceType, WantedNode

__all__ = [
    "Action",
    "Attempts",
    "Condition",
    "Description",
    "DescriptionError",
    "Ensure",
    "Halt",
    "Health",
    "Implementation",
    "Node",
    "NodeError",
    "ObservedNode",
    "Place",
    "Plan",
    "Record",
    "Remove",
    "ResourceType",
    "Scalar",
    "Status",
    "Step",
    "Value",
    "Wanted",
    "WantedNode",
    "check_description",
    "checked_parameters",
    "manifest_problems",
    "noted",
    "outputs",
    "parse",
    "plan",
    "scaled",
]
