"""Rule chains that the hub keeps, in bundles, and which edge is to run which."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text, number = Text(), sa.BigInteger()
    op.create_table(
        "rule_bundle",
        sa.Column("tenant", text, sa.ForeignKey("tenant.name"), primary_key=True),
        sa.Column("name", text, primary_key=True),
        sa.Column("version", number, primary_key=True, autoincrement=False),
        sa.Column("created_ns", number, nullable=False),
        sa.Column("root", text, nullable=False),
        sa.Column("files", text, nullable=False),
        sa.Column("digest", text, nullable=False),
        sa.Column("facts", text, nullable=False),
    )
    op.create_table(
        "rule_assignment",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
        sa.Column("bundle", text, nullable=False),
        sa.Column("version", number, nullable=False),
        sa.Column("digest", text, nullable=False),
        sa.Column("assigned_ns", number, nullable=False),
    )
    op.create_table(
        "rule_delivery",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("digest", text, nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.Column("sent_ns", number, nullable=False),
    )
