"""What edges are to be told: a journal for each of them, and calls of devices."""

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text, number = Text(), sa.BigInteger()
    op.create_table(
        "downlink",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("incarnation", text, nullable=False),
        sa.Column("forks", number, nullable=False),
        sa.Column("refused", number, nullable=False),
    )
    op.create_table(
        "downlink_lane",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("lane", number, primary_key=True, autoincrement=False),
        sa.Column("tail", number, nullable=False),
        sa.Column("tail_chain", text, nullable=False),
        sa.Column("floor", number, nullable=False),
        sa.Column("trimmed", number, nullable=False),
        sa.Column("trimmed_chain", text, nullable=False),
        sa.Column("start", number, nullable=False),
        sa.Column("start_chain", text, nullable=False),
        sa.Column("nbytes", number, nullable=False),
    )
    op.create_table(
        "downlink_record",
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), primary_key=True),
        sa.Column("lane", number, primary_key=True, autoincrement=False),
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        sa.Column("chain", text, nullable=False),
        sa.Column("origin", text, nullable=False),
        sa.Column("body", text, nullable=False),
        sa.Column("created_ns", number, nullable=False),
    )
    op.create_table(
        "rpc",
        sa.Column("id", text, primary_key=True),
        sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
        sa.Column("edge", text, sa.ForeignKey("owner.edge"), nullable=False),
        sa.Column("device", text, nullable=False),
        sa.Column("method", text, nullable=False),
        sa.Column("params", text, nullable=False),
        sa.Column("is_one_way", number, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("created_ns", number, nullable=False),
        sa.Column("expires_ns", number, nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.Column("edge_ns", number),
        sa.Column("sent_ns", number),
        sa.Column("delivered_ns", number),
        sa.Column("answered_ns", number),
        sa.Column("expired_ns", number),
        sa.Column("answer", text),
        sa.Column("error", text, nullable=False),
        sa.Column("reason", text, nullable=False),
    )
    op.create_index("rpc_by_edge", "rpc", ["tenant", "edge", "created_ns"])
    op.create_index("rpc_by_state", "rpc", ["state", "expires_ns"])
    op.create_table(
        "rpc_cursor",
        sa.Column("generation", text, primary_key=True),
        sa.Column("position", number, nullable=False),
    )
