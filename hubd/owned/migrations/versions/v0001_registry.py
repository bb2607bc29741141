"""The registry's tables, with the rows of every shape they had before shapes had numbers.

Those shapes, in `registry.db`: edges with the names of tenants, keys and enrolments; then revoked
keys; then guests of the link; then tenants, owners, tokens of the API and sites.

Frozen as it is: later revisions change what it makes, this one is never edited.
"""

import hashlib
import logging
import re
import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

log = logging.getLogger(__name__)

Row = dict[str, Any]
DEFAULT_TENANT = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Those that refer to others first.
UNNUMBERED = ("key", "enrolment", "api_token", "owner", "revoked_key", "edge", "tenant")


def upgrade() -> None:
    connection = op.get_bind()
    there = set(sa.inspect(connection).get_table_names())
    before: dict[str, list[Row]] = {}
    for name in UNNUMBERED:
        before[name] = []
        if name in there:
            found = connection.execute(sa.text(f'SELECT * FROM "{name}"'))
            before[name] = [dict(row) for row in found.mappings()]
    for name in UNNUMBERED:
        if name in there:
            op.drop_table(name)
    tables = _create_tables()
    for name, rows in _taken_over(before, time.time_ns()).items():
        if rows:
            op.bulk_insert(tables[name], rows)


def _create_tables() -> dict[str, sa.Table]:
    text, number = Text(), sa.BigInteger()
    made = [
        op.create_table("change_counter", sa.Column("number", number, nullable=False)),
        op.create_table(
            "tenant",
            sa.Column("name", text, primary_key=True),
            sa.Column("created_ns", number, nullable=False),
            sa.Column("removed_ns", number),
        ),
        op.create_table(
            "api_token",
            sa.Column("sha256", text, primary_key=True),
            sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
            sa.Column("label", text, nullable=False),
            sa.Column("may_write", sa.Integer(), nullable=False),
            sa.Column("created_ns", number, nullable=False),
        ),
        op.create_table(
            "owner",
            sa.Column("edge", text, primary_key=True),
            sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
        ),
        op.create_table(
            "edge",
            sa.Column("name", text, primary_key=True),
            sa.Column("tenant", text, sa.ForeignKey("tenant.name"), nullable=False),
            sa.Column("created_ns", number, nullable=False),
            sa.Column("revoked_ns", number),
            sa.Column("site", text, nullable=False, server_default=""),
        ),
        op.create_table(
            "key",
            sa.Column("public", text, primary_key=True),
            sa.Column("edge", text, sa.ForeignKey("edge.name"), nullable=False),
            sa.Column("added_ns", number, nullable=False),
        ),
        op.create_table(
            "revoked_key",
            sa.Column("public", text, primary_key=True),
            sa.Column("edge", text, nullable=False),
            sa.Column("revoked_ns", number, nullable=False),
        ),
        op.create_table(
            "enrolment",
            sa.Column("routing_key", text, primary_key=True),
            sa.Column("edge", text, sa.ForeignKey("edge.name"), nullable=False),
            sa.Column("secret_sha256", text, nullable=False),
            sa.Column("expires_ns", number, nullable=False),
            sa.Column("redeemed_key", text),
            sa.Column("guest", text),
        ),
    ]
    return {table.name: table for table in made}


def _taken_over(before: dict[str, list[Row]], now_ns: int) -> dict[str, list[Row]]:
    """Return the rows of the new tables, those that others refer to first."""
    edges = {row["name"]: row for row in before["edge"]}
    owners = {row["edge"]: row["tenant"] for row in before["owner"]}
    # An earlier version than the one that made owners may have been run again since.
    owners = {name: row["tenant"] for name, row in edges.items()} | owners
    tenants = {row["name"]: row for row in before["tenant"]}
    legal = {name: _legal_name(name) for name in {*owners.values(), *tenants, DEFAULT_TENANT}}
    keys, revoked = _sorted_keys(before, edges)
    return {
        "change_counter": [{"number": 1}],
        "tenant": [
            {
                "name": legal[name],
                "created_ns": tenants[name]["created_ns"] if name in tenants else now_ns,
                "removed_ns": tenants[name]["removed_ns"] if name in tenants else None,
            }
            for name in sorted(legal)
        ],
        "api_token": [_columns(row, API_TOKEN) for row in before["api_token"]],
        "owner": [{"edge": name, "tenant": legal[tenant]} for name, tenant in owners.items()],
        "edge": [
            {**_columns(row, EDGE), "tenant": legal[owners[name]], "site": row.get("site") or ""}
            for name, row in edges.items()
        ],
        "key": keys,
        "revoked_key": revoked,
        "enrolment": [
            _columns(row, ENROLMENT) for row in before["enrolment"] if row["edge"] in edges
        ],
    }


API_TOKEN = ("sha256", "tenant", "label", "may_write", "created_ns")
EDGE = ("name", "created_ns", "revoked_ns")
ENROLMENT = ("routing_key", "edge", "secret_sha256", "expires_ns", "redeemed_key", "guest")


def _columns(row: Row, names: Iterable[str]) -> Row:
    return {name: row.get(name) for name in names}


def _sorted_keys(
    before: dict[str, list[Row]], edges: dict[str, Row]
) -> tuple[list[Row], list[Row]]:
    """Return the keys that are let in, and those that never are again.

    Revoking was once of the edge alone, and left its keys in the table.
    """
    keys = []
    revoked = {row["public"]: row for row in before["revoked_key"]}
    for row in before["key"]:
        edge = edges.get(row["edge"])
        if edge is not None and edge["revoked_ns"] is None:
            keys.append(row)
        else:
            at_ns = row["added_ns"] if edge is None else edge["revoked_ns"]
            lost = {"public": row["public"], "edge": row["edge"], "revoked_ns": at_ns}
            revoked.setdefault(row["public"], lost)
    return keys, list(revoked.values())


def _legal_name(name: str) -> str:
    """Return the name of a tenant: it is a folder's, and was any text once."""
    if NAME.fullmatch(name):
        return name
    like = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:54] or "tenant"
    made = f"{like}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    log.warning("the tenant %r of an earlier version is called %s now", name, made)
    return made
