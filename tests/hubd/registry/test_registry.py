"""Who may speak to the hub: invited once, known by a key, revoked at once.

A contract of owned state: the same over SQLite and PostgreSQL.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync_transport.keys import new_key_pair
from hubd.errors import (
    EdgeExists,
    EdgeOfAnother,
    EdgeUnknown,
    EnrolRefused,
    GrantRefused,
    OwnedUnusable,
    TenantRefused,
    TenantUnknown,
)
from hubd.registry import DEFAULT_TENANT, Registry, open_registry
from hubd.registry.enrolments import GUESTS_TOLD_NS

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
def registry(tmp_path: Path, owned_url: sa.URL | None, clock: Clock) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url, clock_ns=clock)) as found:
        yield found


def invite(registry: Registry, edge: str = "barn", *, again: bool = False) -> tuple[str, str]:
    found = registry.enrolments.invite(edge, tenant="default", valid_s=900, again=again)
    return found.routing_key, found.secret


def test_a_token_lets_one_key_in_and_asks_again_for_the_same(registry: Registry) -> None:
    routing_key, secret = invite(registry)
    assert registry.edges.live_keys() == {}
    mine, other = new_key_pair().public, new_key_pair().public
    assert registry.enrolments.redeem(routing_key, secret, mine) == "barn"
    assert registry.enrolments.redeem(routing_key, secret, mine) == "barn"  # the answer was lost
    with pytest.raises(EnrolRefused, match="used already"):
        registry.enrolments.redeem(routing_key, secret, other)
    assert registry.edges.live_keys() == {mine: "barn"}


def test_wrong_credentials_say_nothing_about_which_was_wrong(registry: Registry) -> None:
    routing_key, secret = invite(registry)
    public = new_key_pair().public
    refusals = set()
    for key, word in ((routing_key, "x" + secret), ("x" + routing_key, secret), ("", "")):
        with pytest.raises(EnrolRefused) as refused:
            registry.enrolments.redeem(key, word, public)
        refusals.add((refused.value.code, refused.value.reason))
    assert len(refusals) == 1
    with pytest.raises(EnrolRefused, match="Z85"):
        registry.enrolments.redeem(routing_key, secret, "no key")


def test_a_token_expires(registry: Registry, clock: Clock) -> None:
    routing_key, secret = invite(registry)
    clock.now_ns += 901 * SECOND
    with pytest.raises(EnrolRefused, match="expired"):
        registry.enrolments.redeem(routing_key, secret, new_key_pair().public)


def test_a_new_key_replaces_the_old_one(registry: Registry) -> None:
    first, second = new_key_pair().public, new_key_pair().public
    registry.enrolments.redeem(*invite(registry), first)
    with pytest.raises(EdgeExists):
        invite(registry)
    registry.enrolments.redeem(*invite(registry, again=True), second)
    assert registry.edges.live_keys() == {second: "barn"}


def test_a_key_speaks_for_one_edge(registry: Registry) -> None:
    public = new_key_pair().public
    registry.enrolments.redeem(*invite(registry), public)
    with pytest.raises(EnrolRefused, match="another edge"):
        registry.enrolments.redeem(*invite(registry, "shop"), public)


def test_revoking_is_of_the_key_and_for_good(registry: Registry) -> None:
    public, other = new_key_pair().public, new_key_pair().public
    registry.enrolments.redeem(*invite(registry), public)
    registry.edges.revoke("barn")
    assert registry.edges.live_keys() == {}
    with pytest.raises(EdgeUnknown):
        registry.edges.revoke("nobody")
    token = invite(registry, again=True)
    assert registry.edges.all()[0].is_revoked  # nobody has shown the token yet
    assert registry.edges.live_keys() == {}
    with pytest.raises(EnrolRefused, match="was revoked; make a new one") as refused:
        registry.enrolments.redeem(*token, public)
    assert refused.value.code == "revoked"
    assert registry.edges.live_keys() == {}
    registry.enrolments.redeem(*token, other)
    assert registry.edges.live_keys() == {other: "barn"}
    assert not registry.edges.all()[0].is_revoked


def test_a_replaced_key_is_revoked_for_every_edge(registry: Registry) -> None:
    old, new = new_key_pair().public, new_key_pair().public
    registry.enrolments.redeem(*invite(registry), old)
    registry.enrolments.redeem(*invite(registry, again=True), new)
    for name in ("barn", "shop"):
        with pytest.raises(EnrolRefused, match="was revoked"):
            registry.enrolments.redeem(*invite(registry, name, again=True), old)
    assert registry.edges.live_keys() == {new: "barn"}


def test_the_key_of_an_answer_that_was_lost_can_be_revoked(registry: Registry) -> None:
    token, public = invite(registry), new_key_pair().public
    registry.enrolments.redeem(*token, public)
    registry.edges.revoke("barn")
    with pytest.raises(EnrolRefused, match="was revoked"):
        registry.enrolments.redeem(*token, public)
    with pytest.raises(EnrolRefused, match="used already"):
        registry.enrolments.redeem(*token, new_key_pair().public)


def test_the_newest_token_is_good_and_none_after_a_revocation(registry: Registry) -> None:
    first, second = invite(registry), invite(registry, again=True)
    with pytest.raises(EnrolRefused, match="expired"):
        registry.enrolments.redeem(*first, new_key_pair().public)
    registry.edges.revoke("barn")
    with pytest.raises(EnrolRefused, match="expired"):
        registry.enrolments.redeem(*second, new_key_pair().public)
    assert registry.edges.live_keys() == {}


def test_keys_of_an_edge_that_was_forgotten_stay_revoked(registry: Registry) -> None:
    public = new_key_pair().public
    registry.enrolments.redeem(*invite(registry), public)
    registry.edges.forget("barn")
    assert (registry.edges.all(), registry.edges.live_keys()) == ([], {})
    for name in ("barn", "shop"):
        with pytest.raises(EnrolRefused, match="was revoked"):
            registry.enrolments.redeem(*invite(registry, name), public)


def test_a_tokens_holder_is_told_for_a_day_that_it_has_expired(
    registry: Registry, clock: Clock
) -> None:
    token = invite(registry)
    assert list(registry.enrolments.guests().values()) == [token[0]]
    clock.now_ns += 900 * SECOND + GUESTS_TOLD_NS - 1
    assert list(registry.enrolments.guests().values()) == [token[0]]
    clock.now_ns += 1
    assert registry.enrolments.guests() == {}
    clock.now_ns += 12 * GUESTS_TOLD_NS
    invite(registry, "shop")  # makes room
    with pytest.raises(EnrolRefused, match="unknown"):
        registry.enrolments.redeem(*token, new_key_pair().public)


def test_changes_of_another_process_are_noticed(
    registry: Registry, tmp_path: Path, owned_url: sa.URL | None
) -> None:
    assert registry.changes() is not None
    assert registry.changes() is None
    with closing(open_registry(tmp_path, owned_url)) as other:
        invite(other, "shop")
        found = registry.changes()
        assert found is not None
        assert [edge.name for edge in found.edges] == ["shop"]
        assert registry.changes() is None
        invite(registry, "barn")
        for each in (registry, other):
            found = each.changes()
            assert found is not None
            assert [edge.name for edge in found.edges] == ["barn", "shop"]


def test_changes_that_could_not_be_read_are_read_the_next_time(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OwnedUnusable(registry.name, "disk I/O error")

    invite(registry)
    with monkeypatch.context() as broken:
        broken.setattr(registry.edges, "all", fail)
        with pytest.raises(OwnedUnusable):
            registry.changes()
    found = registry.changes()
    assert found is not None
    assert [edge.name for edge in found.edges] == ["barn"]
    assert registry.changes() is None


def test_what_was_refused_has_changed_nothing(registry: Registry) -> None:
    invite(registry)
    assert registry.changes() is not None
    with pytest.raises(TenantUnknown):
        registry.enrolments.invite("shop", tenant="nobody", valid_s=900)
    with pytest.raises(EdgeExists):
        invite(registry)
    assert registry.changes() is None
    assert registry.edges.owners() == {"barn": DEFAULT_TENANT}


def test_two_processes_that_invite_one_edge_take_turns(
    registry: Registry, tmp_path: Path, owned_url: sa.URL | None
) -> None:
    """One of them has it, the other is told that it is there; no database error passes."""
    with closing(open_registry(tmp_path, owned_url)) as other:

        def attempt(each: Registry) -> str:
            try:
                invite(each)
            except EdgeExists:
                return "refused"
            return "invited"

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(attempt, (registry, other))) == ["invited", "refused"]


@pytest.mark.parametrize("text", ["", "\0", "Halle 4 \N{SNOWMAN}", "\0" * 16, "'; DROP TABLE edge"])
def test_any_text_may_be_asked_for(registry: Registry, text: str) -> None:
    registry.enrolments.invite("barn", site=text, valid_s=900)
    assert registry.edges.all()[0].site == text
    with pytest.raises(EnrolRefused, match="unknown"):
        registry.enrolments.redeem(text, text, new_key_pair().public)
    with pytest.raises(EdgeUnknown):
        registry.edges.revoke(text)


def add_edge(registry: Registry, edge: str, tenant: str) -> None:
    registry.enrolments.invite(edge, tenant=tenant, valid_s=900)


@pytest.mark.feature("C14")
def test_an_edges_name_stays_with_its_tenant(registry: Registry) -> None:
    for name in ("acme", "bolt"):
        registry.tenants.add(name)
    add_edge(registry, "barn", "acme")
    with pytest.raises(EdgeOfAnother, match="another tenant"):
        add_edge(registry, "barn", "bolt")
    registry.edges.forget("barn")
    with pytest.raises(EdgeOfAnother):
        add_edge(registry, "barn", "bolt")
    assert registry.edges.owners() == {"barn": "acme"}
    add_edge(registry, "barn", "acme")


@pytest.mark.feature("C14")
def test_a_tenant_is_there_before_its_edges_and_goes_after_them(registry: Registry) -> None:
    with pytest.raises(TenantUnknown, match="hubd tenant add acme"):
        add_edge(registry, "barn", "acme")
    assert registry.edges.owners() == {}
    registry.tenants.add("acme")
    with pytest.raises(TenantRefused, match="already"):
        registry.tenants.add("acme")
    add_edge(registry, "barn", "acme")
    registry.api_tokens.add("ab" * 32, tenant="acme", label="", may_write=False)
    counted = [(one.name, one.edges, one.tokens) for one in registry.tenants.all()]
    assert counted == [("acme", 1, 1), (DEFAULT_TENANT, 0, 0)]
    with pytest.raises(TenantRefused, match="1 edges"):
        registry.tenants.remove("acme")
    registry.edges.forget("barn")
    registry.tenants.remove("acme")
    assert registry.api_tokens.all() == []
    with pytest.raises(TenantUnknown):
        registry.api_tokens.add("cd" * 32, tenant="acme", label="", may_write=False)
    with pytest.raises(TenantRefused, match="was removed"):
        registry.tenants.add("acme")
    with pytest.raises(TenantRefused, match="it stays"):
        registry.tenants.remove(DEFAULT_TENANT)


@pytest.mark.feature("C14")
def test_a_token_is_withdrawn_by_the_beginning_of_its_hash(registry: Registry) -> None:
    for name in ("acme", "bolt"):
        registry.tenants.add(name)
    registry.api_tokens.add("ab" + "0" * 62, tenant="acme", label="one", may_write=True)
    registry.api_tokens.add("ac" + "0" * 62, tenant="acme", label="two", may_write=False)
    for tenant, start in (("bolt", "ab"), ("acme", "a"), ("acme", "ff")):
        with pytest.raises(TenantRefused, match="hash that begins"):
            registry.api_tokens.withdraw(tenant, start)
    assert registry.api_tokens.withdraw("acme", "ab").label == "one"
    assert [one.label for one in registry.api_tokens.all()] == ["two"]


def test_an_edge_is_granted_prefixes_until_it_is_granted_others(registry: Registry) -> None:
    def granted() -> tuple[str, ...]:
        (edge,) = registry.edges.all()
        return edge.prefixes

    invite(registry)
    assert granted() == ()
    registry.edges.grant("barn", ["b/", "a/", "b/"])
    assert granted() == ("a/", "b/")
    invite(registry, again=True)
    assert granted() == ("a/", "b/")
    registry.enrolments.invite("barn", prefixes=["c/"], valid_s=900, again=True)
    assert granted() == ("c/",)
    changes = registry.changes()
    assert changes is not None
    assert [edge.grant for edge in changes.edges] == [(b"c/",)]
    registry.edges.grant("barn", [])
    assert granted() == ()


@pytest.mark.parametrize("prefixes", [[""], ["x" * 256], ["é" * 128], [f"{n}/" for n in range(33)]])
def test_what_is_no_grant_changes_nothing(registry: Registry, prefixes: list[str]) -> None:
    invite(registry)
    registry.edges.grant("barn", ["a/"])
    with pytest.raises(GrantRefused):
        registry.edges.grant("barn", prefixes)
    with pytest.raises(GrantRefused):
        registry.enrolments.invite("shed", prefixes=prefixes, valid_s=900)
    assert [(one.name, one.prefixes) for one in registry.edges.all()] == [("barn", ("a/",))]
    with pytest.raises(EdgeUnknown):
        registry.edges.grant("shed", ["a/"])
