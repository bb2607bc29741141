"""Who may speak to the hub: invited once, known by a key, revoked at once."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesync_transport.keys import new_key_pair
from hubd.edges.registry import DEFAULT_TENANT, GUESTS_TOLD_NS, NAME_PATTERN, Registry
from hubd.errors import (
    EdgeExists,
    EdgeOfAnother,
    EdgeUnknown,
    EnrolRefused,
    RegistryBusy,
    RegistryUnusable,
    TenantRefused,
    TenantUnknown,
)

pytestmark = pytest.mark.feature("S6")

SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_767_225_600 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    with closing(Registry(tmp_path / "registry.db", clock_ns=clock)) as found:
        yield found


def invite(registry: Registry, edge: str = "barn", *, again: bool = False) -> tuple[str, str]:
    found = registry.invite(edge, tenant="default", valid_s=900, again=again)
    return found.routing_key, found.secret


def test_a_token_lets_one_key_in_and_asks_again_for_the_same(registry: Registry) -> None:
    routing_key, secret = invite(registry)
    assert registry.live_keys() == {}
    mine, other = new_key_pair().public, new_key_pair().public
    assert registry.redeem(routing_key, secret, mine) == "barn"
    assert registry.redeem(routing_key, secret, mine) == "barn"  # the answer was lost
    with pytest.raises(EnrolRefused, match="used already"):
        registry.redeem(routing_key, secret, other)
    assert registry.live_keys() == {mine: "barn"}


def test_wrong_credentials_say_nothing_about_which_was_wrong(registry: Registry) -> None:
    routing_key, secret = invite(registry)
    public = new_key_pair().public
    refusals = set()
    for key, word in ((routing_key, "x" + secret), ("x" + routing_key, secret), ("", "")):
        with pytest.raises(EnrolRefused) as refused:
            registry.redeem(key, word, public)
        refusals.add((refused.value.code, refused.value.reason))
    assert len(refusals) == 1
    with pytest.raises(EnrolRefused, match="Z85"):
        registry.redeem(routing_key, secret, "no key")


def test_a_token_expires(registry: Registry, clock: Clock) -> None:
    routing_key, secret = invite(registry)
    clock.now_ns += 901 * SECOND
    with pytest.raises(EnrolRefused, match="expired"):
        registry.redeem(routing_key, secret, new_key_pair().public)


def test_a_new_key_replaces_the_old_one(registry: Registry) -> None:
    first, second = new_key_pair().public, new_key_pair().public
    registry.redeem(*invite(registry), first)
    with pytest.raises(EdgeExists):
        invite(registry)
    registry.redeem(*invite(registry, again=True), second)
    assert registry.live_keys() == {second: "barn"}


def test_a_key_speaks_for_one_edge(registry: Registry) -> None:
    public = new_key_pair().public
    registry.redeem(*invite(registry), public)
    with pytest.raises(EnrolRefused, match="another edge"):
        registry.redeem(*invite(registry, "shop"), public)


def test_revoking_is_of_the_key_and_for_good(registry: Registry) -> None:
    public, other = new_key_pair().public, new_key_pair().public
    registry.redeem(*invite(registry), public)
    registry.revoke("barn")
    assert registry.live_keys() == {}
    with pytest.raises(EdgeUnknown):
        registry.revoke("nobody")
    token = invite(registry, again=True)
    assert registry.edges()[0].is_revoked  # nobody has shown the token yet
    assert registry.live_keys() == {}
    with pytest.raises(EnrolRefused, match="was revoked; make a new one") as refused:
        registry.redeem(*token, public)
    assert refused.value.code == "revoked"
    assert registry.live_keys() == {}
    registry.redeem(*token, other)
    assert registry.live_keys() == {other: "barn"}
    assert not registry.edges()[0].is_revoked


def test_a_replaced_key_is_revoked_for_every_edge(registry: Registry) -> None:
    old, new = new_key_pair().public, new_key_pair().public
    registry.redeem(*invite(registry), old)
    registry.redeem(*invite(registry, again=True), new)
    for name in ("barn", "shop"):
        with pytest.raises(EnrolRefused, match="was revoked"):
            registry.redeem(*invite(registry, name, again=True), old)
    assert registry.live_keys() == {new: "barn"}


def test_the_key_of_an_answer_that_was_lost_can_be_revoked(registry: Registry) -> None:
    token, public = invite(registry), new_key_pair().public
    registry.redeem(*token, public)
    registry.revoke("barn")
    with pytest.raises(EnrolRefused, match="was revoked"):
        registry.redeem(*token, public)
    with pytest.raises(EnrolRefused, match="used already"):
        registry.redeem(*token, new_key_pair().public)


def test_the_newest_token_is_good_and_none_after_a_revocation(registry: Registry) -> None:
    first, second = invite(registry), invite(registry, again=True)
    with pytest.raises(EnrolRefused, match="expired"):
        registry.redeem(*first, new_key_pair().public)
    registry.revoke("barn")
    with pytest.raises(EnrolRefused, match="expired"):
        registry.redeem(*second, new_key_pair().public)
    assert registry.live_keys() == {}


def test_keys_of_an_edge_that_was_forgotten_stay_revoked(registry: Registry) -> None:
    public = new_key_pair().public
    registry.redeem(*invite(registry), public)
    registry.forget("barn")
    assert (registry.edges(), registry.live_keys()) == ([], {})
    for name in ("barn", "shop"):
        with pytest.raises(EnrolRefused, match="was revoked"):
            registry.redeem(*invite(registry, name), public)


def test_a_tokens_holder_is_told_for_a_day_that_it_has_expired(
    registry: Registry, clock: Clock
) -> None:
    token = invite(registry)
    assert list(registry.guests().values()) == [token[0]]
    clock.now_ns += 900 * SECOND + GUESTS_TOLD_NS - 1
    assert list(registry.guests().values()) == [token[0]]
    clock.now_ns += 1
    assert registry.guests() == {}
    clock.now_ns += 12 * GUESTS_TOLD_NS
    invite(registry, "shop")  # makes room
    with pytest.raises(EnrolRefused, match="unknown"):
        registry.redeem(*token, new_key_pair().public)


def test_keys_of_edges_revoked_by_an_older_version_are_revoked(tmp_path: Path) -> None:
    public = new_key_pair().public
    with closing(Registry(tmp_path / "registry.db")) as older:
        older.redeem(*invite(older), public)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        db.execute("UPDATE edge SET revoked_ns = 1")
        db.execute("DROP TABLE revoked_key")
        db.commit()
    with closing(Registry(tmp_path / "registry.db")) as registry:
        token = invite(registry, again=True)
        assert registry.live_keys() == {}
        with pytest.raises(EnrolRefused, match="was revoked"):
            registry.redeem(*token, public)


def test_a_registry_held_by_another_process_says_so(tmp_path: Path) -> None:
    with closing(Registry(tmp_path / "registry.db", busy_s=0.01)) as hasty:
        token = invite(hasty)
        with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            assert hasty.live_keys() == {}
            with pytest.raises(RegistryBusy, match="try again"):
                hasty.redeem(*token, new_key_pair().public)
        assert hasty.redeem(*token, new_key_pair().public) == "barn"


def test_changes_of_another_process_are_noticed(registry: Registry, tmp_path: Path) -> None:
    assert registry.has_changed()
    assert not registry.has_changed()
    with closing(Registry(tmp_path / "registry.db")) as other:
        other.invite("shop", tenant="default", valid_s=900)
    assert registry.has_changed()
    assert not registry.has_changed()
    assert [edge.name for edge in registry.edges()] == ["shop"]


def test_the_file_alone_has_every_change_while_the_hub_runs(
    registry: Registry, tmp_path: Path
) -> None:
    """A killed hub leaves a WAL: without it nobody is locked out, and no revoked key is back."""
    lost, kept = new_key_pair().public, new_key_pair().public
    registry.redeem(*invite(registry), lost)
    registry.revoke("barn")
    registry.redeem(*invite(registry, "mill"), kept)
    copy = tmp_path / "copy.db"
    copy.write_bytes(registry.path.read_bytes())
    with closing(Registry(copy)) as found:
        assert found.live_keys() == {kept: "mill"}
        routing_key, secret = invite(found, "barn", again=True)
        with pytest.raises(EnrolRefused, match="revoked"):
            found.redeem(routing_key, secret, lost)


def test_a_change_does_not_wait_for_who_reads(registry: Registry) -> None:
    key = new_key_pair().public
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM edge").fetchall()
        registry.redeem(*invite(registry), key)
        assert registry.live_keys() == {key: "barn"}
        reader.execute("COMMIT")
    registry.revoke("barn")  # the next change moves both
    assert not registry.path.with_name("registry.db-wal").stat().st_size


def test_changes_that_could_not_be_read_are_read_the_next_time(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RegistryUnusable(str(registry.path), "disk I/O error")

    invite(registry)
    with monkeypatch.context() as broken:
        broken.setattr(registry, "edges", fail)
        with pytest.raises(RegistryUnusable):
            registry.changes()
    found = registry.changes()
    assert found is not None
    assert [edge.name for edge in found.edges] == ["barn"]
    assert registry.changes() is None


def add_edge(registry: Registry, edge: str, tenant: str) -> None:
    registry.invite(edge, tenant=tenant, valid_s=900)


@pytest.mark.feature("C14")
def test_an_edges_name_stays_with_its_tenant(registry: Registry) -> None:
    for name in ("acme", "bolt"):
        registry.add_tenant(name)
    add_edge(registry, "barn", "acme")
    with pytest.raises(EdgeOfAnother, match="another tenant"):
        add_edge(registry, "barn", "bolt")
    registry.forget("barn")
    with pytest.raises(EdgeOfAnother):
        add_edge(registry, "barn", "bolt")
    assert registry.owners() == {"barn": "acme"}
    add_edge(registry, "barn", "acme")


@pytest.mark.feature("C14")
def test_a_tenant_is_there_before_its_edges_and_goes_after_them(registry: Registry) -> None:
    with pytest.raises(TenantUnknown, match="hubd tenant add acme"):
        add_edge(registry, "barn", "acme")
    assert registry.owners() == {}
    registry.add_tenant("acme")
    with pytest.raises(TenantRefused, match="already"):
        registry.add_tenant("acme")
    add_edge(registry, "barn", "acme")
    registry.add_token("ab" * 32, tenant="acme", label="", may_write=False)
    counted = [(one.name, one.edges, one.tokens) for one in registry.tenants()]
    assert counted == [("acme", 1, 1), (DEFAULT_TENANT, 0, 0)]
    with pytest.raises(TenantRefused, match="1 edges"):
        registry.remove_tenant("acme")
    registry.forget("barn")
    registry.remove_tenant("acme")
    assert registry.tokens() == []
    with pytest.raises(TenantUnknown):
        registry.add_token("cd" * 32, tenant="acme", label="", may_write=False)
    with pytest.raises(TenantRefused, match="was removed"):
        registry.add_tenant("acme")
    with pytest.raises(TenantRefused, match="it stays"):
        registry.remove_tenant(DEFAULT_TENANT)


@pytest.mark.feature("C14")
def test_a_token_is_withdrawn_by_the_beginning_of_its_hash(registry: Registry) -> None:
    for name in ("acme", "bolt"):
        registry.add_tenant(name)
    registry.add_token("ab" + "0" * 62, tenant="acme", label="one", may_write=True)
    registry.add_token("ac" + "0" * 62, tenant="acme", label="two", may_write=False)
    for tenant, start in (("bolt", "ab"), ("acme", "a"), ("acme", "ff")):
        with pytest.raises(TenantRefused, match="hash that begins"):
            registry.withdraw_token(tenant, start)
    assert registry.withdraw_token("acme", "ab").label == "one"
    assert [one.label for one in registry.tokens()] == ["two"]


def test_a_registry_from_before_tenants_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(
            "CREATE TABLE edge (name TEXT PRIMARY KEY, tenant TEXT NOT NULL,"
            " created_ns INTEGER NOT NULL, revoked_ns INTEGER, last_seen_ns INTEGER,"
            " software TEXT NOT NULL DEFAULT '') STRICT;"
            "INSERT INTO edge (name, tenant, created_ns) VALUES ('barn', 'acme', 5)"
        )
    with closing(Registry(path)) as registry:
        assert registry.owners() == {"barn": "acme"}
        assert [one.name for one in registry.tenants()] == ["acme", DEFAULT_TENANT]
        assert registry.edges()[0].site == ""


def test_names_of_an_earlier_version_become_names_of_folders(tmp_path: Path) -> None:
    """`--tenant` was any text once: a folder of that name may lie anywhere."""
    texts = ("..", "../../etc", "Acme GmbH", "", "x" * 200, "acme", "Acme-GmbH")
    with closing(Registry(tmp_path / "registry.db")) as older:
        for number in range(len(texts)):
            older.redeem(*invite(older, f"edge{number}"), new_key_pair().public)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        for number, text in enumerate(texts):
            db.execute("UPDATE edge SET tenant = ? WHERE name = ?", (text, f"edge{number}"))
        db.execute("DROP TABLE owner")
        db.execute("DROP TABLE tenant")
        db.commit()
    for _ in range(2):
        with closing(Registry(tmp_path / "registry.db")) as registry:
            owners = registry.owners()
            assert {one.name: one.tenant for one in registry.edges()} == owners
            assert len(set(owners.values())) == len(texts)
            assert all(re.fullmatch(NAME_PATTERN, name) for name in owners.values())
            assert {"acme", "Acme-GmbH"} < set(owners.values())
            assert {one.name for one in registry.tenants()} == {*owners.values(), "default"}


def test_an_edge_that_an_earlier_version_enrolled_is_its_tenants(tmp_path: Path) -> None:
    """After a return to that version, say: its keys were the default tenant's."""
    with closing(Registry(tmp_path / "registry.db")) as registry:
        registry.add_tenant("acme")
        registry.redeem(*invite(registry), new_key_pair().public)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        db.execute("UPDATE edge SET tenant = 'acme'")
        db.execute("DELETE FROM owner")
        db.commit()
    with closing(Registry(tmp_path / "registry.db")) as registry:
        assert registry.owners() == {"barn": "acme"}
