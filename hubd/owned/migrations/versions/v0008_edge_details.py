"""Edges have a label, a type and a customer; those that were there have none."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("label", "type", "customer"):
        op.add_column("edge", sa.Column(name, Text(), nullable=False, server_default=""))
