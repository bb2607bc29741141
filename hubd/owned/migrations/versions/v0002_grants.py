"""Edges are granted prefixes of keys; those that were there are granted all, as before."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("edge", sa.Column("prefixes", Text(), nullable=False, server_default="[]"))
