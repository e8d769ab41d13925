"""The service manager's own tables. The registry stores what tenants see of an instance, these tables what drives it."""

from __future__ import annotations

import sqlalchemy as sa

from archelon_core.database import metadata

bundles = sa.Table(
    "sm_bundles",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("archive", sa.LargeBinary, nullable=False),
    sa.Column("type", sa.String(255), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    # Seconds since the epoch; see lifecycle/bundle_retention.py.
    sa.Column("unused_since", sa.Double),
)

#: Owners of bundles: every tenant that has uploaded it.
bundle_owners = sa.Table(
    "sm_bundle_owners",
    metadata,
    sa.Column("digest", sa.ForeignKey("sm_bundles.digest"), primary_key=True),
    sa.Column("tenant", sa.String(255), primary_key=True),
)

#: The current catalogue. `revision` rises with every change of any row, so that one small SELECT shows whether a
#: process has loaded them all.
services = sa.Table(
    "sm_services",
    metadata,
    sa.Column("type", sa.String(255), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("digest", sa.ForeignKey("sm_bundles.digest"), nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, index=True),
)

#: The log of changes of the catalogue, as long as unused bundles are kept; the first of a service says whose it is.
publications = sa.Table(
    "sm_publications",
    metadata,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("type", sa.String(255), nullable=False, index=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("what", sa.String(16), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

#: One row per instance: the columns of `snapshot.Snapshot`, and further ones.
instances = sa.Table(
    "sm_instances",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("tenant", sa.String(255), nullable=False),
    sa.Column("service", sa.String(255), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("made", sa.String(64)),
    sa.Column("wanted", sa.String(8), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("applied", sa.BigInteger, nullable=False),
    sa.Column("phase_generation", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("failed", sa.String(16)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("begun", sa.Double, nullable=False),
    sa.Column("retry_at", sa.Double),
    sa.Column("outcome", sa.String(8)),
    sa.Column("outcome_message", sa.Text, nullable=False),
    sa.Column("boots", sa.BigInteger, nullable=False),
    sa.Column("activated", sa.BigInteger, nullable=False),
    sa.Column("sent", sa.BigInteger, nullable=False),
    sa.Column("disposal", sa.String(8)),
    sa.Column("dependencies", sa.Integer, nullable=False),
    # The orchestrator's URL, once its application has one.
    sa.Column("address", sa.Text),
    # Calls and polls without a result, one after another; the backoff's attempt.
    sa.Column("consecutive_failures", sa.Integer, nullable=False),
    # Encrypted: the orchestrator's start token, and its private state.
    sa.Column("start_token", sa.Text),
    sa.Column("private", sa.Text),
    # Names of the attributes that the orchestrator reported as outputs, as a JSON array.
    sa.Column("outputs", sa.Text, nullable=False),
    sa.Column("locked", sa.String(8)),
    sa.Column("request_id", sa.Text),
    sa.Column("audit", sa.Text),
    # Of its resources, as its orchestrator reported last; and with its suppliers', as shown. See lifecycle/health.py.
    sa.Column("own_health", sa.String(16), nullable=False, server_default="healthy"),
    sa.Column("own_health_message", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("health", sa.String(16)),
    sa.Column("health_message", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("health_since", sa.Double),
    sa.Index("ix_sm_instances_tenant_service", "tenant", "service"),
    sa.Index("ix_sm_instances_tenant_path", "tenant", "path", unique=True),
    sa.Index("ix_sm_instances_service_state_health", "service", "state", "health"),
)

#: Instances of the same tenant, at this service manager, that an instance is composed of or bound to.
dependencies = sa.Table(
    "sm_dependencies",
    metadata,
    sa.Column("instance", sa.ForeignKey("sm_instances.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("tenant", sa.String(255), nullable=False),
    sa.Index("ix_sm_dependencies_tenant_path", "tenant", "path"),
)

#: Pending invocations of declared actions.
invocations = sa.Table(
    "sm_invocations",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("instance", sa.ForeignKey("sm_instances.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    # Encrypted, since an attribute may be a secret.
    sa.Column("attributes", sa.Text, nullable=False),
    sa.Column("made", sa.Double, nullable=False),
)

#: Instances that the last roll of their service has left over, until its next; an empty reason: that it is to retry.
roll_leftovers = sa.Table(
    "sm_roll_leftovers",
    metadata,
    sa.Column("instance", sa.ForeignKey("sm_instances.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
)

#: Named values: an operator's switches such as `draining`, the metrics exporter, the discovery cache.
flags = sa.Table("sm_flags", metadata, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text))
