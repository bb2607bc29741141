"""Who may speak to the hub: invited once, known by a key, revoked at once.

A contract of owned state: the same over SQLite and PostgreSQL.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync_transport.keys import new_key_pair
from edgesync_transport.messages import Lane
from hubd.downlink.journal import DownlinkView, Journal
from hubd.errors import (
    EdgeExists,
    EdgeOfAnother,
    EdgeRefused,
    EdgeUnknown,
    EnrolRefused,
    GrantRefused,
    OwnedUnusable,
    TenantRefused,
    TenantUnknown,
    UserRefused,
    UserUnknown,
)
from hubd.registry import (
    DEFAULT_TENANT,
    Registry,
    Role,
    audit,
    edges,
    open_registry,
    passwords,
    users,
)
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


def test_an_edge_that_is_forgotten_leaves_no_token_and_nothing_that_it_was_to_be_told(
    registry: Registry,
) -> None:
    token, journal = invite(registry), Journal(registry.owned)
    journal.send("barn", Lane.NORMAL, [b"open the gate"])
    registry.edges.forget("barn")
    with pytest.raises(EnrolRefused, match="unknown"):
        registry.enrolments.redeem(*token, new_key_pair().public)
    with pytest.raises(EnrolRefused, match="not known any more"):
        registry.enrolments.redeem_as_guest(token[0], new_key_pair().public)
    assert registry.enrolments.guests() == {}
    invite(registry)
    assert journal.view("barn") == DownlinkView(edge="barn")


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
def test_no_tenant_takes_all_places_of_edges(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "EDGES_MAX", 3)
    monkeypatch.setattr(edges, "TENANT_EDGES_MAX", 1)
    monkeypatch.setattr(edges, "NAMES_A_PLACE", 2)
    registry.tenants.add("acme")
    add_edge(registry, "a1", "acme")
    with pytest.raises(EdgeRefused, match="the tenant acme has 1 edges"):
        add_edge(registry, "a2", "acme")
    with pytest.raises(EdgeRefused, match="the tenant acme has 1 edges"):
        registry.edges.save("a2", tenant="acme")
    assert not registry.edges.save("a1", tenant="acme", label="Barn")
    add_edge(registry, "d1", DEFAULT_TENANT)
    add_edge(registry, "d2", DEFAULT_TENANT)
    with pytest.raises(EdgeRefused, match="at most 3 edges"):
        add_edge(registry, "d3", DEFAULT_TENANT)
    registry.edges.forget("a1")
    add_edge(registry, "a2", "acme")
    registry.edges.forget("a2")
    with pytest.raises(EdgeRefused, match="has had 2 names"):
        add_edge(registry, "a3", "acme")
    add_edge(registry, "a1", "acme")


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


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed at a cost that a test does not notice."""
    monkeypatch.setattr(passwords, "COST", (2, 8, 1))


@pytest.mark.feature("C14")
@pytest.mark.usefixtures("cheap")
def test_users_are_made_changed_and_removed(registry: Registry) -> None:
    registry.tenants.add("acme")
    registry.changes()
    made = registry.users.add(
        "Ana@Example.org", "correct horse", role=Role.OPERATOR, tenant="acme", sites=["b", "a", "b"]
    )
    assert (made.name, made.tenant, made.sites) == ("ana@example.org", "acme", ("a", "b"))
    chief = registry.users.add("chief", "correct horse", role=Role.ADMIN, tenant=None)
    changes = registry.changes()
    assert changes is not None
    assert changes.users == [made, chief]
    with pytest.raises(UserRefused, match="is taken"):
        registry.users.add("ANA@example.org", "correct horse", role=Role.ADMIN, tenant=None)
    for change in (registry.users.set_role, registry.users.remove):
        with pytest.raises(UserUnknown):
            change("ana@example.org", *([Role.ADMIN] if change == registry.users.set_role else []),
                   tenant="default")  # fmt: skip
    changed = registry.users.set_role("ana@example.org", Role.VIEWER, tenant="acme")
    assert (changed.role, changed.sites) == (Role.VIEWER, ())
    again = registry.users.set_password("ana@example.org", "correct horse")
    assert again.password != made.password  # other salt
    users = registry.users
    users.add("boltsadmin", "correct horse", role=Role.ADMIN, tenant="default")
    attempts: list[Callable[..., object]] = [
        partial(users.remove, "chief"), partial(users.set_role, "chief", Role.VIEWER),
        partial(users.set_password, "chief", "correct horse"),
        partial(users.add, "eve", "correct horse", role=Role.ADMIN, tenant="acme"),
    ]  # fmt: skip
    for attempt in attempts:
        # No admin any more, one who is removed, and one of another tenant.
        for by in ("ana@example.org", "nobody", "boltsadmin"):
            with pytest.raises(UserRefused, match="no admin any more"):
                attempt(by=by)
    users.remove("boltsadmin", by="chief")
    registry.users.remove("ana@example.org", tenant="acme", by="chief")
    assert registry.users.all() == [chief]
    with pytest.raises(UserUnknown, match="hubd users list"):
        registry.users.set_password("ana@example.org", "correct horse")


@pytest.mark.feature("C14")
@pytest.mark.usefixtures("cheap")
def test_what_is_no_user_is_refused(registry: Registry) -> None:
    registry.changes()

    def refused(name: str, word: str, problem: str, role: Role = Role.VIEWER,
                sites: tuple[str, ...] = (), tenant: str = DEFAULT_TENANT) -> None:  # fmt: skip
        with pytest.raises((UserRefused, TenantUnknown), match=problem):
            registry.users.add(name, word, role=role, tenant=tenant, sites=sites)

    for name in ("", "a b", "x" * 64, ".a", "\0", "ä"):
        refused(name, "correct horse", "no name of a user")
    for word in ("", "short", " " * 20, "x" * 201, "\ud800" * 12):
        refused("ana", word, "a password")
    refused("ana", "correct horse", "operator", Role.ADMIN, ("a",))
    refused("ana", "correct horse", "100 at most", Role.OPERATOR, tuple(map(str, range(101))))
    refused("ana", "correct horse", "1 to 255", Role.OPERATOR, ("",))
    refused("ana", "correct horse", "no tenant", tenant="nobody")
    assert registry.changes() is None


@pytest.mark.feature("C14")
@pytest.mark.usefixtures("cheap")
def test_users_go_with_their_tenant(registry: Registry) -> None:
    registry.tenants.add("acme")
    registry.users.add("ana", "correct horse", role=Role.ADMIN, tenant="acme")
    registry.tenants.remove("acme")
    assert registry.users.all() == []


@pytest.mark.feature("C14")
def test_who_changes_much_pushes_out_nothing_of_another_tenant(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KEPT_MAX", 8)
    monkeypatch.setattr(audit, "SWEPT_EVERY", 5)
    whose = ["acme", "cork", "acme"] + ["bolt"] * 22
    for nth, tenant in enumerate(whose):
        registry.audit.note(tenant=tenant, by="ana", what="x", edge=f"e{nth}", detail="{}")
    kept = {
        tenant: [one.edge for one in registry.audit.page(tenant, before=1 << 62, limit=99)[0]]
        for tenant in ("acme", "bolt", "cork")
    }
    assert kept == {"acme": ["e2", "e0"], "bolt": ["e24", "e23", "e22", "e21", "e20"],
                    "cork": ["e1"]}  # fmt: skip


@pytest.mark.feature("C14")
def test_a_fair_share_is_the_most_that_fits() -> None:
    for counts, total in (([], 5), ([3], 5), ([9], 5), ([1, 9, 9], 11), ([2, 2, 2], 5)):
        share = audit.fair_share(counts, total)
        assert sum(min(count, share) for count in counts) <= total
        assert all(count <= share for count in counts) or (
            sum(min(count, share + 1) for count in counts) > total
        )


@pytest.mark.feature("C14")
@pytest.mark.usefixtures("cheap")
def test_no_tenant_takes_all_places_of_users(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "TENANT_USERS_MAX", 1)
    monkeypatch.setattr(users, "USERS_MAX", 2)
    registry.tenants.add("acme")

    def add(name: str, tenant: str | None) -> None:
        registry.users.add(name, "correct horse", role=Role.VIEWER, tenant=tenant)

    add("ana", "acme")
    with pytest.raises(UserRefused, match="the tenant acme has 1 users"):
        add("joe", "acme")
    add("chief", None)
    with pytest.raises(UserRefused, match="as a whole has 1 users"):
        add("boss", None)
    with pytest.raises(UserRefused, match="the hub has 2 users"):
        add("dora", DEFAULT_TENANT)


@pytest.mark.feature("C14")
def test_what_users_changed_is_found_and_the_oldest_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KEPT_MAX", 8)
    monkeypatch.setattr(audit, "SWEPT_EVERY", 1)
    monkeypatch.setattr(audit, "LOOKED_AT_MAX", 3)
    count = registry.owned.change_count()
    for nth in range(10):
        registry.audit.note(
            tenant=("acme", "bolt")[nth % 2], by=("ana", "joe")[nth // 5], what="attributes",
            edge=f"edge{nth}", detail="x" * 2000,
        )  # fmt: skip
    assert registry.owned.change_count() == count  # the hub need not look at everything again

    def every(tenant: str | None, limit: int = 2, **wanted: str) -> list[str]:
        found, before = list[str](), 1 << 62
        while True:
            page, least = registry.audit.page(tenant, before=before, limit=limit, **wanted)
            assert len(page) <= limit
            found += [one.edge for one in page]
            if least is None:
                return found
            before = least

    kept = [f"edge{nth}" for nth in range(9, 1, -1)]
    assert every(None) == kept
    assert every("acme") == [name for name in kept if int(name[4:]) % 2 == 0]
    assert every(None, by="ana") == ["edge4", "edge3", "edge2"]
    assert every("bolt", edge="edge3") == ["edge3"]
    (newest,), _ = registry.audit.page(None, before=1 << 62, limit=1)
    assert (newest.n, newest.by, len(newest.detail)) == (10, "joe", audit.DETAIL_CHARS_MAX)
