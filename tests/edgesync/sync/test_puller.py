"""Pages of keys in parts: each once, in order, of the question that is under way."""

import msgspec
import pytest

from edgesync.errors import RecordError
from edgesync.sync.puller import Puller, entries_of, told_digest
from edgesync_transport.messages import DeltaSync, Page, Pull
from tests.transport.samples import PULL, SAMPLES

pytestmark = pytest.mark.feature("L5")

PAGE = next(one for one in SAMPLES.values() if isinstance(one, DeltaSync))


def page(asked: Pull, part: int, parts: int, **fields: object) -> Page:
    made = msgspec.structs.replace(
        PAGE, epoch=asked.epoch, token=asked.token, keyspace=asked.keyspace,
        replica=asked.replica, part=part, parts=parts, payload=b"%d," % part,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def test_a_page_in_parts_comes_back_whole() -> None:
    puller = Puller()
    asked = puller.ask(PULL)
    assert asked.part == 0
    for part in (0, 1):
        more = puller.heard(page(asked, part, 3))
        assert isinstance(more, Pull)
        assert (more.part, more.token, more.wants) == (part + 1, asked.token, asked.wants)
    whole = puller.heard(page(asked, 2, 3))
    assert isinstance(whole, Page)
    assert whole.payload == b"0,1,2,"
    assert puller.question is None
    assert puller.heard(page(asked, 2, 3)) is None


def test_a_part_that_comes_twice_or_too_early_is_not_taken() -> None:
    puller = Puller()
    asked = puller.ask(PULL)
    assert puller.heard(page(asked, 1, 3)) is None
    assert isinstance(puller.heard(page(asked, 0, 3)), Pull)
    assert puller.heard(page(asked, 0, 3)) is None
    assert puller.heard(page(asked, 2, 3)) is None
    assert isinstance(puller.heard(page(asked, 1, 3)), Pull)
    whole = puller.heard(page(asked, 2, 3))
    assert isinstance(whole, Page)
    assert whole.payload == b"0,1,2,"


def test_an_answer_to_another_question_is_dropped() -> None:
    puller = Puller()
    assert puller.heard(page(PULL, 0, 1)) is None, "nothing was asked"
    before = puller.ask(PULL)
    assert isinstance(puller.heard(page(before, 0, 2)), Pull)
    asked = puller.ask(PULL)
    assert asked.token != before.token
    assert puller.heard(page(before, 1, 2)) is None
    assert puller.heard(page(asked, 0, 2, epoch=asked.epoch + 1)) is None
    assert isinstance(puller.heard(page(asked, 0, 2)), Pull)
    whole = puller.heard(page(asked, 1, 2))
    assert isinstance(whole, Page)
    assert whole.payload == b"0,1,", "what came of the question before is no part of it"


@pytest.mark.parametrize("other", [{"replica": 99}, {"keyspace": b"k" * 16}])
def test_a_hub_that_calls_the_edge_something_else_is_heard_at_once(
    other: dict[str, object],
) -> None:
    puller = Puller()
    asked = puller.ask(PULL)
    found = page(asked, 0, 5, **other)
    assert puller.heard(found) is found
    assert puller.question is None


def test_what_is_no_page_is_refused() -> None:
    assert entries_of(page(PULL, 0, 1, payload=b"")) == []
    with pytest.raises(RecordError, match="a page of keys"):
        entries_of(page(PULL, 0, 1, payload=b"nonsense"))


def test_a_digest_is_never_told_as_none() -> None:
    assert told_digest(0) == told_digest(1 << 64) == 1
    assert told_digest((1 << 64) + 5) == 5
