"""A cursor inside an entry; the series of an edge, and what is beyond its limit, are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, name in (
        ("projector_cursor", "part_of"), ("projector_cursor", "done"),
        ("edge_totals", "series"), ("edge_totals", "refused"),
    ):  # fmt: skip
        op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(
        "update edge_totals set series ="
        " (select count(*) from series where series.edge = edge_totals.edge)"
    )
