"""Who may speak to the hub: invited once, known by a key, revoked at once."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesync_transport.keys import new_key_pair
from hubd.edges.registry import Registry
from hubd.errors import EdgeExists, EdgeUnknown, EnrolRefused

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


def test_a_revoked_edge_has_no_key_until_it_is_invited_again(registry: Registry) -> None:
    public = new_key_pair().public
    registry.redeem(*invite(registry), public)
    registry.revoke("barn")
    assert registry.live_keys() == {}
    assert registry.edges()[0].is_revoked
    with pytest.raises(EdgeUnknown):
        registry.revoke("nobody")
    invite(registry, again=True)
    assert not registry.edges()[0].is_revoked


def test_changes_of_another_process_are_noticed(registry: Registry, tmp_path: Path) -> None:
    assert registry.has_changed()
    assert not registry.has_changed()
    with closing(Registry(tmp_path / "registry.db")) as other:
        other.invite("shop", tenant="default", valid_s=900)
    assert registry.has_changed()
    assert not registry.has_changed()
    assert [edge.name for edge in registry.edges()] == ["shop"]
