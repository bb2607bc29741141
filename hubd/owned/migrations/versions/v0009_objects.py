"""Large objects that the hub keeps, and which edge is to hold or to remove which."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text, number = Text(), sa.BigInteger()
    op.create_table(
        "object",
        sa.Column("tenant", text, sa.ForeignKey("tenant.name"), primary_key=True),
        sa.Column("name", text, primary_key=True),
        sa.Column("sha256", text, nullable=False),
        sa.Column("size", number, nullable=False),
        sa.Column("created_ns", number, nullable=False),
    )
    op.create_table(
        "object_assignment",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("name", text, primary_key=True),
        sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
        sa.Column("is_wanted", number, nullable=False),
        sa.Column("changed_ns", number, nullable=False),
    )
