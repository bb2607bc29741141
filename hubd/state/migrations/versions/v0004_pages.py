"""Points of an edge in pages instead of rows of a series. They are made again from the log."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("history")
    op.drop_table("latest")
    _create_latest()
    _create_page()
    op.create_table(
        "stored",
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("edge"),
    )
    for made_again in (
        "delete from rollup_1m",
        "delete from rollup_1h",
        "delete from projector_cursor where name = 'telemetry'",
        "delete from projector_skip where name = 'telemetry'",
        "update edge_totals set readings = 0, refused = 0",
    ):
        op.execute(made_again)


def _create_latest() -> None:
    op.create_table(
        "latest",
        sa.Column("ref", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("vtype", sa.SmallInteger(), nullable=False),
        sa.Column("bits", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("ref"),
    )


def _create_page() -> None:
    op.create_table(
        "page",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("span", sa.SmallInteger(), nullable=False),
        sa.Column("t_min", sa.BigInteger(), nullable=False),
        sa.Column("t_max", sa.BigInteger(), nullable=False),
        sa.Column("ref_first", sa.BigInteger(), nullable=False),
        sa.Column("ref_last", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "page_by_time",
        "page",
        ["edge", "span", "t_min", "t_max", "ref_first", "ref_last", "level"],
    )
