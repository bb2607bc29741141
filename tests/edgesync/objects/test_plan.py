"""The next step about an edge's objects, and the parts of one: decided without disk and link."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgesync.errors import RecordError
from edgesync.objects import plan as core
from edgesync.objects.model import (
    OBJECTS_MAX,
    PART_BYTES_MAX,
    Listing,
    ObjectRef,
    Standing,
    listing_of,
    pack_states,
    read_listing,
    read_states,
)
from edgesync.objects.plan import Adopt, Drop, Failure, Fetch, Room, Transfer, plan, states

pytestmark = pytest.mark.feature("S22")

ROOM = Room(limit=1000, free=10_000, reserve=100)


def ref(name: str, size: int = 100, salt: str = "") -> ObjectRef:
    return ObjectRef(name, hashlib.sha256(f"{name}{salt}".encode()).hexdigest(), size)


A, B = ref("a"), ref("b")
A2 = ref("a", salt="newer")
ALSO_A = ObjectRef("also", A.sha256, A.size)


def step(listing: Listing, *held: ObjectRef, room: Room = ROOM, **more: Any) -> Any:
    there = {one.name: one for one in held}
    return plan(listing, there, more.get("have", {}), room, more.get("failures", {}), 0.0)


def standing(listing: Listing, *held: ObjectRef, room: Room = ROOM, **more: Any) -> dict[str, Any]:
    there = {one.name: one for one in held}
    found = states(
        listing, there, more.get("have", {}), room, more.get("failures", {}),
        more.get("fetching", ""),
    )  # fmt: skip
    return {one.name: (one.standing, one.have, one.reason) for one in found}


def test_what_is_missing_is_fetched_in_order_and_then_nothing_is_to_be_done() -> None:
    wanted = listing_of([B, A])
    assert step(wanted) == Fetch(A)
    assert step(wanted, A) == Fetch(B)
    assert step(wanted, A, B) is None
    assert step(Listing()) is None


def test_a_new_content_of_a_name_is_fetched_while_the_old_one_is_held() -> None:
    assert step(listing_of([A2]), A) == Fetch(A2)
    assert standing(listing_of([A2]), A)["a"] == (Standing.WANTED, 0, "")


def test_bytes_that_are_here_under_another_name_are_not_fetched_again() -> None:
    assert step(listing_of([ALSO_A]), A) == Adopt(ALSO_A)


def test_bytes_of_another_size_than_their_sha256_says_are_refused() -> None:
    """A hub that is not well: what is called held would not be, after the next start."""
    longer = ObjectRef("also", A.sha256, A.size + 1)
    assert step(listing_of([A, longer]), A) is None
    has, _, reason = standing(listing_of([A, longer]), A)["also"]
    assert (has, "the hub lists 101" in reason) == (Standing.REFUSED, True)


def test_only_what_the_hub_says_is_removed() -> None:
    assert step(Listing(), A) is None  # an empty hub, or an older one (I15)
    assert standing(Listing(), A)["a"] == (Standing.KEPT, 100, "")
    assert step(listing_of([], ["a"]), A) == Drop("a")
    assert step(listing_of([], ["a"]), B) is None


def test_what_there_is_no_room_for_waits_with_a_reason_that_names_the_setting() -> None:
    big = ref("big", 901)
    assert step(listing_of([big]), A) is None
    (kind, _, reason) = standing(listing_of([big]), A)["big"]
    assert (kind, "`limit` under [objects]" in reason) == (Standing.REFUSED, True)
    assert step(listing_of([big, ref("small", 50)]), A) == Fetch(ref("small", 50))
    full = Room(limit=1000, free=150, reserve=100)
    assert step(listing_of([B]), room=full) is None
    (kind, have, reason) = standing(listing_of([B]), room=full, have={B.sha256: 49})["b"]
    assert (kind, have, "`reserve`" in reason) == (Standing.REFUSED, 49, True)
    assert step(listing_of([B]), room=full, have={B.sha256: 50}) == Fetch(B)


def test_what_failed_is_tried_again_later_and_ever_more_seldom() -> None:
    first = core.failed(None, "x" * 1000, now=10.0)
    assert (first.until, len(first.reason)) == (40.0, 200)
    assert core.failed(first, "", 40.0).until == 100.0
    assert core.failed(Failure("", 0.0, 1000), "", 0.0).until == core.AGAIN_MAX_S
    failures = {A.sha256: Failure("damaged", 1.0)}
    assert step(listing_of([A]), failures=failures) is None
    assert standing(listing_of([A]), failures=failures)["a"] == (Standing.REFUSED, 0, "damaged")
    assert core.again_at(failures, 0.0) == 1.0
    assert core.again_at(failures, 1.0) == float("inf")
    assert step(listing_of([A]), failures={A.sha256: Failure("damaged", 0.0)}) == Fetch(A)


names = st.sampled_from("abcdef")
refs = st.builds(ref, names, st.integers(1, 400), st.sampled_from("xy"))
several = st.dictionaries(names, refs, max_size=6).map(
    lambda found: {name: ObjectRef(name, one.sha256, one.size) for name, one in found.items()}
)


@given(several, st.sets(names), several, st.integers(0, 2000))
def test_from_anywhere_the_steps_end_and_then_the_edge_has_what_it_can(
    wanted: dict[str, ObjectRef], removed: set[str], held: dict[str, ObjectRef], limit: int
) -> None:
    listing = listing_of(wanted.values(), removed - set(wanted))
    room = Room(limit=limit, free=10_000, reserve=0)
    before, there = dict(held), dict(held)
    for _ in range(50):
        match plan(listing, there, {}, room, {}, 0.0):
            case Drop(name):
                assert name in listing.removed
                del there[name]
            case Adopt(one):
                assert one.sha256 in {other.sha256 for other in there.values()}
                there[one.name] = one
            case Fetch(one):
                assert one in listing.wanted
                there[one.name] = one
            case None:
                break
    else:
        raise AssertionError("it never ends")
    for one in listing.wanted:
        assert there.get(one.name) == one or core.refusal(one, there, 0, room)
    for name, one in before.items():
        assert name in there or name in listing.removed
        assert name in wanted or name in listing.removed or there[name] == one


@given(several, st.sets(names))
def test_a_listing_is_read_as_it_was_written_and_has_one_digest(
    wanted: dict[str, ObjectRef], removed: set[str]
) -> None:
    listing = listing_of(wanted.values(), removed - set(wanted))
    assert read_listing(listing.pack()) == listing
    turned = listing_of(reversed(list(wanted.values())), sorted(removed - set(wanted)))
    assert turned.digest() == listing.digest()


@pytest.mark.parametrize("wrong", [
    b"", b"\xc1", b"\x92\x90", listing_of([A, ref("a", 7)]).pack(), listing_of([A], ["a"]).pack(),
    listing_of([ObjectRef("../a", A.sha256, 1)]).pack(),
    listing_of([ObjectRef("a\n", A.sha256, 1)]).pack(),
    listing_of([ObjectRef("a", "../" + A.sha256[3:], 1)]).pack(),
    listing_of([ObjectRef("a", A.sha256 + "\n", 1)]).pack(),
    listing_of([ObjectRef("a", A.sha256, 0)]).pack(),
    listing_of([ref(f"n{n}") for n in range(OBJECTS_MAX + 1)]).pack(),
])  # fmt: skip
def test_what_is_no_listing_is_refused(wrong: bytes) -> None:
    with pytest.raises(RecordError):
        read_listing(wrong)


def test_a_report_is_read_as_it_was_written_and_refused_otherwise() -> None:
    found = states(listing_of([A, B]), {"a": A, "c": ref("c")}, {}, ROOM, {})
    assert list(read_states(pack_states(found))) == found
    with pytest.raises(RecordError):
        read_states(pack_states(found)[:-1])


def test_parts_are_taken_in_order_and_nothing_else_is() -> None:
    one = ref("a", 3 * PART_BYTES_MAX + 5)
    transfer = Transfer(one, taken=PART_BYTES_MAX)
    (ask,) = transfer.asks(0.0)
    assert (ask.offset, ask.length) == (PART_BYTES_MAX, PART_BYTES_MAX)
    part = bytes(PART_BYTES_MAX)
    for sha256, offset, size, payload in [
        (A2.sha256, ask.offset, one.size, part),
        (one.sha256, 0, one.size, part),
        (one.sha256, ask.offset, one.size + 1, part),
        (one.sha256, ask.offset, one.size, part[1:]),
        (one.sha256, ask.offset, one.size, part + b"x"),
        (one.sha256, ask.offset, one.size, b""),
    ]:
        assert not transfer.take(sha256, offset, size, payload, 0.1)
    assert (transfer.strays, transfer.taken) == (6, PART_BYTES_MAX)
    assert transfer.take(one.sha256, ask.offset, one.size, part, 0.1)
    assert not transfer.take(one.sha256, ask.offset, one.size, part, 0.1)  # doubled on the way
    assert [(more.offset, more.length) for more in transfer.asks(0.1)] == [
        (2 * PART_BYTES_MAX, PART_BYTES_MAX), (3 * PART_BYTES_MAX, 5),
    ]  # fmt: skip


def test_what_is_under_way_follows_the_link_within_bounds() -> None:
    transfer = Transfer(ref("a", 1 << 30), taken=0)
    now = 0.0
    for _ in range(50):
        for ask in list(transfer.asks(now)):
            assert transfer.in_flight <= core.CREDIT_BYTES_MAX
            assert transfer.take(transfer.ref.sha256, ask.offset, 1 << 30, bytes(ask.length), now)
    assert transfer.credit == core.CREDIT_BYTES_MAX
    for _ in range(50):
        asks, now = transfer.asks(now), now + 3.0
        for ask in asks[:1]:
            assert transfer.take(transfer.ref.sha256, ask.offset, 1 << 30, bytes(ask.length), now)
    assert transfer.credit == core.CREDIT_BYTES_MIN


def test_what_is_not_answered_is_asked_for_again() -> None:
    transfer = Transfer(ref("a", 10), taken=0)
    (ask,) = transfer.asks(0.0)
    assert transfer.asks(core.ANSWER_S - 0.1) == []
    assert transfer.due_at() == core.ANSWER_S
    (again,) = transfer.asks(core.ANSWER_S)
    assert (again.offset, again.length) == (ask.offset, ask.length)
    transfer.restart()
    assert transfer.due_at() == float("inf")
    assert len(transfer.asks(core.ANSWER_S)) == 1


class BadLink(RuleBasedStateMachine):
    """A transfer over a link that loses, doubles, delays and ends, and an edge that is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytes(range(256)) * 1030 + b"end"
        sha256 = hashlib.sha256(self.data).hexdigest()
        self.ref = ObjectRef("a", sha256, len(self.data))
        self.draft = b""
        self.transfer = Transfer(self.ref, 0)
        self.asked: list[tuple[int, int]] = []
        self.parts: list[tuple[int, bytes]] = []
        self.now = 0.0

    @rule()
    def ask(self) -> None:
        self.asked += [(ask.offset, ask.length) for ask in self.transfer.asks(self.now)]

    @precondition(lambda self: self.asked)
    @rule(nth=st.integers(0, 100), keeps=st.booleans())
    def answer(self, nth: int, keeps: bool) -> None:
        at = nth % len(self.asked)
        offset, length = self.asked[at] if keeps else self.asked.pop(at)
        self.parts.append((offset, self.data[offset : offset + length]))

    @precondition(lambda self: self.parts)
    @rule(nth=st.integers(0, 100), keeps=st.booleans())
    def hear(self, nth: int, keeps: bool) -> None:
        at = nth % len(self.parts)
        offset, payload = self.parts[at] if keeps else self.parts.pop(at)
        if self.transfer.take(self.ref.sha256, offset, self.ref.size, payload, self.now):
            assert offset == len(self.draft)
            self.draft += payload

    @rule()
    def lose(self) -> None:
        self.asked.clear()
        self.parts.clear()

    @rule(seconds=st.floats(0.0, 20.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def new_session(self) -> None:
        self.transfer.restart()

    @rule(lost=st.integers(0, 100_000))
    def kill(self, lost: int) -> None:
        self.draft = self.draft[: max(0, len(self.draft) - lost)]
        self.transfer = Transfer(self.ref, len(self.draft))

    @invariant()
    def holds_a_beginning_and_no_more_is_under_way_than_may_be(self) -> None:
        assert self.data.startswith(self.draft)
        assert self.transfer.taken == len(self.draft)
        assert self.transfer.taken + self.transfer.in_flight <= self.ref.size
        assert self.transfer.in_flight <= core.CREDIT_BYTES_MAX

    def teardown(self) -> None:
        """On a link that works now, the rest comes."""
        self.lose()
        self.transfer.restart()
        for _ in range(100):
            for ask in self.transfer.asks(self.now):
                payload = self.data[ask.offset : ask.offset + ask.length]
                assert self.transfer.take(
                    self.ref.sha256, ask.offset, self.ref.size, payload, self.now
                )
                self.draft += payload
        assert self.draft == self.data


TestBadLink = BadLink.TestCase
