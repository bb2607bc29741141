"""Users with passwords and roles, and who made a call of a device."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = Text()
    op.create_table(
        "hub_user",
        sa.Column("name", text, primary_key=True),
        sa.Column("tenant", text, sa.ForeignKey("tenant.name")),
        sa.Column("role", text, nullable=False),
        sa.Column("sites", text, nullable=False),
        sa.Column("password", text, nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
    )
    op.add_column("rpc", sa.Column("made_by", text, nullable=False, server_default=""))
