"""The tables of the cloud controller.

A client sees an object as its OCCI entity, in the registry. One row here holds what the modules need besides, and query by other
columns than the path: the owner, the wanted state, and the platform's record.
"""

from __future__ import annotations

import sqlalchemy as sa

from archelon_core.database import metadata

objects = sa.Table(
    "cloud_objects",
    metadata,
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("topic", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(255), nullable=False),
    sa.Column("instance", sa.String(64), nullable=False),
    sa.Column("service", sa.String(512), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("wanted", sa.String(16), nullable=False),
    # Incremented by each request that changes what is wanted, so that an earlier step reports no outdated state.
    sa.Column("version", sa.BigInteger, nullable=False),
    # Requests write `asked`, the worker writes `kept`, so neither overwrites the other.
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("kept", sa.Text, nullable=False),
    sa.Index("ix_cloud_objects_instance", "instance"),
)

notices = sa.Table(
    "cloud_notices",
    metadata,
    # A digest of instance and subject: a later change of a subject replaces an earlier one.
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("instance", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(255), nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Index("ix_cloud_notices_instance", "instance"),
)

bundles = sa.Table(
    "cloud_bundles",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("archive", sa.LargeBinary, nullable=False),
)

samples = sa.Table(
    "cloud_samples",
    metadata,
    sa.Column("monitor", sa.String(255), primary_key=True),
    sa.Column("time", sa.Double, primary_key=True),
    sa.Column("metrics", sa.Text, nullable=False),
)

delegations = sa.Table(
    "cloud_delegations",
    metadata,
    sa.Column("instance", sa.String(64), primary_key=True),
    sa.Column("tenant", sa.String(255), nullable=False),
    # The instance whose delegation this one uses; its own id if it has its own.
    sa.Column("root", sa.String(64), nullable=False),
    # The identity service's record, such as a trust's id: never a token or a password.
    sa.Column("record", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_cloud_delegations_root", "root"),
)

installation = sa.Table(
    "cloud_installation",
    metadata,
    # One row with a random name, from the first migration on: distinguishes the objects of several cloud controllers that share
    # a cluster or a project.
    sa.Column("name", sa.String(36), primary_key=True),
)

#: The name, as a column of another SELECT.
INSTALLATION = sa.select(installation.c.name).scalar_subquery().label("installation")
