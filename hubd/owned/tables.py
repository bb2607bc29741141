"""The tables of owned state, as the newest migration leaves them.

Times are nanoseconds since 1970 UTC. A change of a table is a new file in `migrations/versions`.
"""

from typing import Final

import sqlalchemy as sa

from hubd.db.dialect import Text

metadata: Final = sa.MetaData()

# One row, raised by every change: that is how other processes notice it.
change_counter: Final = sa.Table(
    "change_counter",
    metadata,
    sa.Column("number", sa.BigInteger, nullable=False),
)

# One row: random, of the life of this database. One that was emptied or restored has another.
identity: Final = sa.Table(
    "identity",
    metadata,
    sa.Column("id", Text, nullable=False),
)

tenant: Final = sa.Table(
    "tenant",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("removed_ns", sa.BigInteger),
)

api_token: Final = sa.Table(
    "api_token",
    metadata,
    sa.Column("sha256", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
    sa.Column("label", Text, nullable=False),
    sa.Column("may_write", sa.Integer, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)

# Of every edge there is or ever was.
owner: Final = sa.Table(
    "owner",
    metadata,
    sa.Column("edge", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
)

edge: Final = sa.Table(
    "edge",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger),
    sa.Column("site", Text, nullable=False, server_default=""),
    # Of the keys it may be told of, a JSON list; an empty one is all.
    sa.Column("prefixes", Text, nullable=False, server_default="[]"),
)

key: Final = sa.Table(
    "key",
    metadata,
    sa.Column("public", Text, primary_key=True),
    sa.Column("edge", Text, sa.ForeignKey("edge.name"), nullable=False),
    sa.Column("added_ns", sa.BigInteger, nullable=False),
)

revoked_key: Final = sa.Table(
    "revoked_key",
    metadata,
    sa.Column("public", Text, primary_key=True),
    sa.Column("edge", Text, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger, nullable=False),
)

enrolment: Final = sa.Table(
    "enrolment",
    metadata,
    sa.Column("routing_key", Text, primary_key=True),
    sa.Column("edge", Text, sa.ForeignKey("edge.name"), nullable=False),
    sa.Column("secret_sha256", Text, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
    sa.Column("redeemed_key", Text),
    sa.Column("guest", Text),
)
