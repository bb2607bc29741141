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

# `sites` is a JSON list; `tenant` is null for a user of the hub as a whole.
hub_user: Final = sa.Table(
    "hub_user",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name")),
    sa.Column("role", Text, nullable=False),
    sa.Column("sites", Text, nullable=False),
    sa.Column("password", Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)

# What users have changed; `detail` is JSON, its beginning.
audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
    sa.Column("tenant", Text, nullable=False),
    sa.Column("made_by", Text, nullable=False),
    sa.Column("what", Text, nullable=False),
    sa.Column("edge", Text, nullable=False),
    sa.Column("detail", Text, nullable=False),
    sa.Index("audit_by_tenant", "tenant", "n"),
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
    # For people and programs; they give nobody rights.
    sa.Column("label", Text, nullable=False, server_default=""),
    sa.Column("type", Text, nullable=False, server_default=""),
    sa.Column("customer", Text, nullable=False, server_default=""),
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

# The hub's journal for an edge, see `hubd/downlink/`. Chains are 16 hex digits, as SQL has no u64.
downlink: Final = sa.Table(
    "downlink",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("incarnation", Text, nullable=False),
    sa.Column("forks", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
)

# trimmed <= floor <= tail; nbytes of the records above `trimmed`.
downlink_lane: Final = sa.Table(
    "downlink_lane",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("lane", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tail", sa.BigInteger, nullable=False),
    sa.Column("tail_chain", Text, nullable=False),
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("trimmed", sa.BigInteger, nullable=False),
    sa.Column("trimmed_chain", Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("start_chain", Text, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
)

# `body` is the record as it travels, in base64.
downlink_record: Final = sa.Table(
    "downlink_record",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("lane", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("chain", Text, nullable=False),
    sa.Column("origin", Text, nullable=False),
    sa.Column("body", Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Index("downlink_record_by_time", "created_ns"),
)

# Calls of devices, see `edgesync/rpc/`. `params` and `answer` are JSON. `seq` is of the critical
# lane to the edge; 0 of a call that this hub knows from its answer alone.
rpc: Final = sa.Table(
    "rpc",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), nullable=False),
    sa.Column("device", Text, nullable=False),
    sa.Column("method", Text, nullable=False),
    sa.Column("params", Text, nullable=False),
    sa.Column("is_one_way", sa.BigInteger, nullable=False),
    sa.Column("state", Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("edge_ns", sa.BigInteger),
    sa.Column("sent_ns", sa.BigInteger),
    sa.Column("delivered_ns", sa.BigInteger),
    sa.Column("answered_ns", sa.BigInteger),
    sa.Column("expired_ns", sa.BigInteger),
    sa.Column("answer", Text),
    sa.Column("error", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("made_by", Text, nullable=False, server_default=""),
    sa.Index("rpc_by_edge", "tenant", "edge", "created_ns"),
    sa.Index("rpc_by_state", "state", "expires_ns"),
    # What a floor of the edge passes: `edge_ns` is null of what is not there yet.
    sa.Index("rpc_on_its_way", "edge", "edge_ns", "seq"),
    # To count what is open and find what is too old from the index alone.
    sa.Index("rpc_kept", "edge", "created_ns", "state", "is_one_way"),
)

# Up to where the log is in `rpc`, for the log of each generation.
rpc_cursor: Final = sa.Table(
    "rpc_cursor",
    metadata,
    sa.Column("generation", Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

# Rule chains in bundles, see `hubd/rules/`. `files` and `facts` are JSON.
rule_bundle: Final = sa.Table(
    "rule_bundle",
    metadata,
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("root", Text, nullable=False),
    sa.Column("files", Text, nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("facts", Text, nullable=False),
)

# What an edge is to run; without a row, what it has of its own.
rule_assignment: Final = sa.Table(
    "rule_assignment",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
    sa.Column("bundle", Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("assigned_ns", sa.BigInteger, nullable=False),
)

# What was put into the journal for an edge last: up to `seq` of the normal lane.
rule_delivery: Final = sa.Table(
    "rule_delivery",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("digest", Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("sent_ns", sa.BigInteger, nullable=False),
)

# Large objects, see `hubd/objects/`. Their bytes are files, named by `sha256`.
object_: Final = sa.Table(
    "object",
    metadata,
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("sha256", Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)

# What an edge is to hold, or with is_wanted 0 to remove: until it has told that it has.
object_assignment: Final = sa.Table(
    "object_assignment",
    metadata,
    sa.Column("edge", Text, sa.ForeignKey("owner.edge"), primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("tenant", Text, sa.ForeignKey("tenant.name"), nullable=False),
    sa.Column("is_wanted", sa.BigInteger, nullable=False),
    sa.Column("changed_ns", sa.BigInteger, nullable=False),
)
