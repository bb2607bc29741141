"""Whom edges belong to: what goes with a tenant, and how much there may be of one.

A contract of owned state: the same over SQLite and PostgreSQL.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from hubd.errors import TenantRefused
from hubd.owned import tables
from hubd.registry import Registry, api_tokens, open_registry, tenants

pytestmark = pytest.mark.feature("S6", "C14")


@pytest.fixture
def registry(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url)) as found:
        yield found


def test_what_was_kept_for_a_tenant_goes_with_it(registry: Registry) -> None:
    """All of it, of whatever table: but its names, and what its users and calls did."""
    registry.tenants.add("acme")
    with registry.owned.change() as connection:
        owner = {"edge": "barn", "tenant": "acme"}
        connection.execute(tables.owner.insert().values(**owner))
        kept = {table.name: table for table in tables.metadata.sorted_tables}
        goes = {
            name: table
            for name, table in kept.items()
            if "tenant" in table.c and name not in ("owner", "audit", "rpc", "edge")
        }
        for table in goes.values():
            values = {
                column.name: 1 if isinstance(column.type, sa.Integer) else "barn"
                for column in table.columns
            }
            connection.execute(table.insert().values(**{**values, "tenant": "acme"}))
        for name in ("rule_assignment", "object_assignment"):  # with their edges, before
            connection.execute(goes.pop(name).delete())
    registry.tenants.remove("acme")
    with registry.owned.read() as connection:
        counts = {
            name: connection.scalar(sa.select(sa.func.count()).select_from(table))
            for name, table in goes.items()
        }
    assert counts == {"api_token": 0, "hub_user": 0, "object": 0, "rule_bundle": 0}
    assert registry.edges.owners() == {"barn": "acme"}


def test_there_are_so_many_tenants_and_tokens_of_one_and_no_more(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "TENANTS_MAX", 3)
    monkeypatch.setattr(api_tokens, "TOKENS_MAX", 1)
    for name in ("acme", "bolt"):
        registry.tenants.add(name)
        registry.api_tokens.add(name, tenant=name, label="", may_write=False)
        with pytest.raises(TenantRefused, match=f"{name} has 1 tokens"):
            registry.api_tokens.add(f"{name} again", tenant=name, label="", may_write=False)
    registry.tenants.remove("bolt")  # whose name stays
    with pytest.raises(TenantRefused, match="3 tenants, with those removed"):
        registry.tenants.add("cork")
    assert [one.sha256 for one in registry.api_tokens.all()] == ["acme"]
