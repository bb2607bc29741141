"""Runs the migrations of owned state on the connection that `open_owned` hands over."""

from alembic import context

from hubd.owned.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
