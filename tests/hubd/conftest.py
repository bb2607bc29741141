"""Where owned state may be: each of its tests runs over SQLite and over PostgreSQL."""

import pytest
import sqlalchemy as sa

from hubd.db.engine import parse_url


@pytest.fixture(params=["sqlite", "postgresql"])
def owned_url(request: pytest.FixtureRequest) -> sa.URL | None:
    """Return the URL of an empty database, None for a file in the hub's folder."""
    if request.param == "sqlite":
        return None
    return parse_url(request.getfixturevalue("database"))
