"""Who is let in: the table, and the handler's answers to requests no libzmq would send."""

import pytest
import zmq
from zmq.utils import z85

from edgesync_transport.keys import new_key_pair
from edgesync_transport.seldom import KEYS_MAX, Seldom
from edgesync_transport.sockets import new_context
from edgesync_transport.zap import KeyTable, Zap

pytestmark = pytest.mark.feature("S6")


def test_keys_come_and_go_at_run_time() -> None:
    one, two = new_key_pair().public, new_key_pair().public
    table = KeyTable({one: "plant-7"})
    table.add(two, "plant-7")
    assert (table.edge_of(one), table.edge_of(two), len(table)) == ("plant-7", "plant-7", 2)
    assert table.remove(one)
    assert not table.remove(one)
    assert (table.edge_of(one), table.edge_of(two)) == (None, "plant-7")
    assert table.remove_edge("plant-7") == 1
    assert len(table) == 0


def test_a_key_speaks_for_one_edge() -> None:
    public = new_key_pair().public
    table = KeyTable({public: "plant-7"})
    table.add(public, "plant-7")
    with pytest.raises(ValueError, match="already speaks for plant-7"):
        table.add(public, "plant-8")


@pytest.mark.parametrize("public", ["", "short", "~" * 40])
def test_what_is_no_key_is_not_added(public: str) -> None:
    with pytest.raises(ValueError, match="40 characters of Z85"):
        KeyTable().add(public, "plant-7")
    with pytest.raises(ValueError, match="an edge has a name"):
        KeyTable().add(new_key_pair().public, "")


# Fixed, so that every test worker collects the same names.
KEY, STRANGER = bytes(range(32)), bytes(range(32, 64))
PUBLIC = z85.encode(KEY).decode()


@pytest.mark.parametrize(
    ("request_frames", "status", "user"),
    [
        ([b"1.0", b"7", b"edgesync", b"127.0.0.1", b"", b"CURVE", KEY], b"200", PUBLIC.encode()),
        ([b"1.0", b"7", b"edgesync", b"127.0.0.1", b"", b"CURVE", STRANGER], b"400", b""),
        ([b"1.0", b"7", b"other", b"127.0.0.1", b"", b"CURVE", KEY], b"400", b""),
        ([b"1.0", b"7", b"edgesync", b"127.0.0.1", b"", b"CURVE", KEY[:31]], b"400", b""),
        ([b"1.0", b"7", b"edgesync", b"127.0.0.1", b"", b"NULL"], b"400", b""),
        ([b"1.0", b"7", b"edgesync", b"127.0.0.1", b"", b"PLAIN", b"me", b"pw"], b"400", b""),
        ([b"2.0", b"7", b"edgesync", b"127.0.0.1", b"", b"CURVE", KEY], b"400", b""),
        ([b"1.0", b"7"], b"400", b""),
        ([b"1.0", b"7", b"\xff", b"\xff", b"\xff", b"\xff", b"\xff"], b"400", b""),
    ],
)
def test_each_request_has_an_answer(
    request_frames: list[bytes], status: bytes, user: bytes
) -> None:
    context = new_context()
    zap = Zap(context, KeyTable({PUBLIC: "plant-7"}))
    try:
        answered_status, _, answered_user = zap._judge(request_frames)
        assert (answered_status, answered_user) == (status, user)
        assert (zap.accepted, zap.refused) == ((1, 0) if status == b"200" else (0, 1))
    finally:
        zap.close()
        context.term()


def test_a_context_has_room_for_one_handler() -> None:
    context = new_context()
    zap = Zap(context, KeyTable())
    try:
        with pytest.raises(zmq.ZMQError, match="Address already in use"):
            Zap(context, KeyTable())
    finally:
        zap.close()
        context.term()


def test_seldom_says_how_many_it_kept_quiet() -> None:
    now = 0.0
    seldom = Seldom(interval_s=60.0, clock=lambda: now)
    assert [seldom.ask("a"), seldom.ask("a"), seldom.ask("b"), seldom.ask("a")] == [
        0,
        None,
        0,
        None,
    ]
    now = 60.0
    assert [seldom.ask("a"), seldom.ask("a")] == [2, None]


def test_seldom_forgets_the_oldest() -> None:
    seldom = Seldom(clock=lambda: 0.0)
    for key in range(KEYS_MAX + 10):
        assert seldom.ask(key) == 0
    assert len(seldom._seen) == KEYS_MAX
    assert seldom.ask(0) == 0


def test_so_many_at_once_and_then_one_now_and_then() -> None:
    now = 0.0
    seldom = Seldom(10.0, lambda: now, burst=3)
    assert [seldom.ask("a") for _ in range(5)] == [0, 0, 0, None, None]
    assert seldom.ask("b") == 0
    now = 9.9
    assert seldom.ask("a") is None
    now = 10.0
    assert [seldom.ask("a"), seldom.ask("a")] == [3, None]
    now = 30.0
    assert [seldom.ask("a") for _ in range(3)] == [1, 0, None]
    now = 1000.0
    assert [seldom.ask("a") for _ in range(4)] == [1, 0, 0, None]
