"""The registry gets a random identity: another one in its place, or an empty one, is noticed."""

import secrets

import sqlalchemy as sa
from alembic import op

from hubd.db.dialect import Text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    identity = op.create_table("identity", sa.Column("id", Text(), nullable=False))
    op.bulk_insert(identity, [{"id": secrets.token_hex(16)}])
