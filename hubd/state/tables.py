"""The tables. Numbers that are u64 elsewhere are stored as the signed 64 bits they consist of.

The points of a series are one sequence in the order of their arrival. Its end is in memory
(`hubd/state/fresh.py`); a row of `page` has some of the rest of many series of one edge
(`hubd/state/pages.py`). With its pages, an edge's row of `stored` says how far the log is in them.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
)

from hubd.db.dialect import Text, TextBytes, indexed, uncompressed

# Of PostgreSQL's tables, which are made anew when it is another; SQLite's have migrations, the
# newest of which has this number.
FORMAT = 4

metadata = MetaData()

# SQLite gives a growing number by itself only to a column declared exactly INTEGER.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# All up to `position` is in, and of the entry `part_of`, which follows, its first `done` items.
projector_cursor = Table(
    "projector_cursor",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("part_of", BigInteger, nullable=False, server_default="0"),
    Column("done", BigInteger, nullable=False, server_default="0"),
)

# An entry a projector could not use, skipped so that what is behind it gets on (I8).
projector_skip = Table(
    "projector_skip",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("edge", Text, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
)

# `series` counts the rows of that table; `refused` the readings of series beyond the limit.
edge_totals = Table(
    "edge_totals",
    metadata,
    Column("edge", Text, primary_key=True),
    Column("readings", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("series", BigInteger, nullable=False, server_default="0"),
    Column("refused", BigInteger, nullable=False, server_default="0"),
    Column("stored_at_ns", BigInteger, nullable=False),
)

# entity and key stay null until the declaration arrives; the readings do not wait for it.
series = Table(
    "series",
    metadata,
    Column("ref", RowNumber, primary_key=True, autoincrement=True),
    Column("edge", Text, nullable=False),
    Column("series", BigInteger, nullable=False),
    Column("entity", Text),
    Column("key", Text),
    Column("unit", Text, nullable=False),
    UniqueConstraint("edge", "series"),
)

# How far the log is in the rows of an edge: what is before is not projected again.
stored = Table(
    "stored",
    metadata,
    Column("edge", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

# The newest stored reading of a series by its time; of equal times the one that arrived last.
# `points` is how many of the series are in pages.
latest = Table(
    "latest",
    metadata,
    Column("ref", BigInteger, primary_key=True, autoincrement=False),
    Column("points", BigInteger, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("vtype", SmallInteger, nullable=False),
    Column("bits", BigInteger, nullable=False),
    Column("text", Text),
)

# span   class of t_max - t_min (`points.SPANS_NS`): what can lie in a range is found by t_min
# level  which aggregates of its points are stored as rows: 0 none, 1 hours, 2 minutes, too
page = Table(
    "page",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("edge", Text, nullable=False),
    Column("span", SmallInteger, nullable=False),
    Column("t_min", BigInteger, nullable=False),
    Column("t_max", BigInteger, nullable=False),
    Column("ref_first", BigInteger, nullable=False),
    Column("ref_last", BigInteger, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("page_by_time", "edge", "span", "t_min", "t_max", "ref_first", "ref_last", "level"),
)


def _rollup(name: str) -> Table:
    """Aggregates of one width, of series with many points in one; the rest is made when asked for.

    first and last are by time, equal times by arrival.
    """
    return Table(
        name,
        metadata,
        Column("ref", BigInteger, primary_key=True, autoincrement=False),
        Column("start_ns", BigInteger, primary_key=True, autoincrement=False),
        Column("points", BigInteger, nullable=False),
        Column("min", Float, nullable=False),
        Column("max", Float, nullable=False),
        Column("sum", Float, nullable=False),
        Column("first", Float, nullable=False),
        Column("last", Float, nullable=False),
        Column("first_ns", BigInteger, nullable=False),
        Column("last_ns", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


rollup_1m = _rollup("rollup_1m")
rollup_1h = _rollup("rollup_1h")

# Windows that edges summed up themselves, packed by `Window.encode`; the highest revision of each.
windows = Table(
    "windows",
    metadata,
    Column("edge", Text, primary_key=True),
    Column("series", BigInteger, primary_key=True, autoincrement=False),
    Column("width_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("start_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

edge_events = Table(
    "edge_events",
    metadata,
    Column("n", RowNumber, primary_key=True, autoincrement=True),
    Column("position", BigInteger, nullable=False),
    Column("nth", Integer, nullable=False),
    Column("edge", Text, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("origin", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("type", Integer, nullable=False),
    Column("action", Integer, nullable=False),
    Column("entity_type", Integer, nullable=False),
    Column("entity", Text, nullable=False),
    Column("body", TextBytes, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("stored_at_ns", BigInteger, nullable=False),
    Column("hlc", BigInteger, nullable=False),
    UniqueConstraint("position", "nth"),
    Index("edge_events_by_edge", "edge", "n"),
    Index("edge_events_by_type", "edge", "type", "n"),
)
Index(
    "edge_events_by_entity", edge_events.c.edge, indexed(edge_events.c.entity), edge_events.c.n
)  # fmt: skip

# What is gone for good, and why: told by the edge (a LOSS event) or by the link (a GAP).
loss = Table(
    "loss",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("nth", Integer, primary_key=True, autoincrement=False),
    Column("edge", Text, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Index("loss_by_edge", "edge", "position"),
)

for packed in (page.c.data, windows.c.data):
    uncompressed(packed)


def signed(value: int) -> int:
    """The signed 64-bit number with the same bits as the unsigned `value`."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF
