"""Alembic runs this around the revisions; `occi_service.registry.schema` provides the connection and the transaction."""

from alembic import context

from archelon_core.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by recreating it; a revision with `op.batch_alter_table` works on both databases.
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
