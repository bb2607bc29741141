"""Calls of one edge, and records of some age, are found without looking at those of others."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("rpc_on_its_way", "rpc", ["edge", "edge_ns", "seq"])
    op.create_index("rpc_kept", "rpc", ["edge", "created_ns", "state", "is_one_way"])
    op.create_index("downlink_record_by_time", "downlink_record", ["created_ns"])
