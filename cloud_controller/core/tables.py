"""The tables of the cloud controller.

What a client sees of an object is its OCCI entity, in the registry. What the modules have to know beside it, and look up by
other things than its path, is one row here: whose it is, what is wanted of it now, and what the platform asked to be remembered.
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
    # Rises with every request that changes what is wanted, so that a step that began before it tells no old state.
    sa.Column("version", sa.BigInteger, nullable=False),
    # Requests write `asked`, the worker writes `kept`: neither can undo the other.
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("kept", sa.Text, nullable=False),
    sa.Index("ix_cloud_objects_instance", "instance"),
)

notices = sa.Table(
    "cloud_notices",
    metadata,
    # A digest of instance and subject: what happened later to the same subject takes the place of what happened before.
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
    # The instance whose delegation this one hangs on; its own id where it hangs on none.
    sa.Column("root", sa.String(64), nullable=False),
    # What the identity service gave, such as a trust's id: never a token or a password.
    sa.Column("record", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_cloud_delegations_root", "root"),
)

installation = sa.Table(
    "cloud_installation",
    metadata,
    # One row, of one random name, from the first migration on: which of several cloud controllers that share a cluster or a
    # project has made an object there.
    sa.Column("name", sa.String(36), primary_key=True),
)

#: The name, for a SELECT that needs it beside something else.
INSTALLATION = sa.select(installation.c.name).scalar_subquery().label("installation")
