"""Who guesses tokens and passwords is held up; who was let in before from there is not."""

from trio.testing import MockClock

from edgesync.serve.devices import guesses as module
from edgesync.serve.devices.credentials import shown_by
from edgesync.serve.devices.guesses import WINDOW_S, Guesses
from edgesync.serve.mqtt.packets import Connect

NAT, OTHER = "192.0.2.1", "192.0.2.2"


async def test_so_many_different_ones_are_too_many_for_a_minute(mock_clock: MockClock) -> None:
    guesses = Guesses(3, "tokens")
    guesses.right(NAT, b"honest")
    for _ in range(100):
        guesses.wrong(NAT, b"the same one")
    assert guesses.wait_s(NAT, b"new") == 0
    guesses.wrong(NAT, b"another")
    mock_clock.jump(20)
    guesses.wrong(NAT, b"and another")
    assert guesses.wait_s(NAT, b"new") == WINDOW_S - 20
    assert guesses.wait_s(NAT, b"honest") == 0
    assert guesses.wait_s(OTHER, b"new") == 0
    assert guesses.wait_s(OTHER, b"honest") == 0
    assert guesses.refused == 1
    mock_clock.jump(WINDOW_S - 20)
    assert guesses.wait_s(NAT, b"new") == 0


async def test_what_was_right_elsewhere_is_a_guess(mock_clock: MockClock) -> None:
    guesses = Guesses(1, "tokens")
    guesses.right(OTHER, b"honest")
    guesses.wrong("2001:db8::1", b"wrong")
    guesses.wrong(NAT, b"wrong")
    assert guesses.wait_s(NAT, b"honest") > 0
    assert guesses.wait_s("2001:db8::2", b"honest") > 0
    assert guesses.wait_s("2001:db8:0:1::2", b"honest") == 0


async def test_what_is_remembered_is_bounded(mock_clock: MockClock) -> None:
    guesses = Guesses(1, "tokens")
    for number in range(module.RIGHT_MAX + 5):
        guesses.right(NAT, b"%d" % number)
    guesses.wrong(NAT, b"wrong")
    assert len(guesses._right) == module.RIGHT_MAX
    assert guesses.wait_s(NAT, b"4") > 0
    assert guesses.wait_s(NAT, b"5") == 0


def test_a_client_id_that_is_made_up_each_time_is_the_same_attempt() -> None:
    def shown(**connect: object) -> bytes:
        return shown_by(Connect(**connect))  # type: ignore[arg-type]

    assert shown(client_id="a", username="pump", password=b"x") == shown(
        client_id="b", username="pump", password=b"x"
    )
    different = [
        shown(client_id="a"), shown(client_id="b"), shown(username="a"), shown(username="b"),
        shown(username="a", password=b"x"), shown(username="a", password=b"y"),
        shown(client_id="a", username="a"),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
