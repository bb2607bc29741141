"""What users have changed, and when."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text, number = Text(), sa.BigInteger()
    op.create_table(
        "audit",
        sa.Column("n", number, primary_key=True, autoincrement=False),
        sa.Column("at_ns", number, nullable=False),
        sa.Column("tenant", text, nullable=False),
        sa.Column("made_by", text, nullable=False),
        sa.Column("what", text, nullable=False),
        sa.Column("edge", text, nullable=False),
        sa.Column("detail", text, nullable=False),
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "n"])
