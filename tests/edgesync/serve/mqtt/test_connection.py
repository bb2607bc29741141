"""One client's connection, by its contract: what is acknowledged when, and what ends it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.serve.mqtt.connection import UNRELEASED_MAX, Connection, Limits, State
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Auth,
    BadPacket,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Packet,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Reason,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from edgesync.serve.mqtt.sessions import Session, Sessions
from edgesync.serve.mqtt.steps import (
    Accept,
    Admitted,
    Answered,
    Authenticate,
    Close,
    Deliver,
    Delivered,
    Denied,
    Effect,
    Elapsed,
    Event,
    Expelled,
    Garbage,
    Lost,
    Release,
    Send,
    Subscribed,
)

REASON, EXPIRY = Property.REASON_STRING, Property.SESSION_EXPIRY
WILL = Will(topic="gone", payload=b"1")
LEVELS = pytest.mark.parametrize("level", [V311, V5])


def everything(_topic_filter: str) -> bool:
    return True


class Client:
    """A connection and what it does; a message is answered when the test says so."""

    def __init__(
        self,
        level: int = V5,
        *,
        limits: Limits | None = None,
        session: Session | None = None,
        grants: Callable[[str], bool] = everything,
        **connect: object,
    ) -> None:
        self.connection = Connection(limits or Limits(), 0.0)
        asked = Connect(level=level, client_id="c", **connect)  # type: ignore[arg-type]
        assert self.step(asked) == [Authenticate(asked)]
        self.session = session or Session(("c", ""))
        admitted = self.step(Admitted(self.session, session is not None, grants))
        self.welcome, self.again = admitted[0], admitted[1:]

    def step(self, event: Event, now: float = 0.0) -> list[Effect]:
        return self.connection.step(event, now)

    def publish(self, packet_id: int = 0, qos: int = 1, **more: object) -> Accept:
        packet = Publish(topic="t", packet_id=packet_id, qos=qos, **more)  # type: ignore[arg-type]
        (effect,) = self.step(packet)
        assert isinstance(effect, Accept)
        assert effect.publish == packet
        return effect

    def answer(self, accepted: Accept, reason: int = 0, problem: str = "") -> list[Packet]:
        return sent(self.step(Answered(accepted.token, reason, problem)))


def sent(effects: list[Effect]) -> list[Packet]:
    assert all(isinstance(one, Send | Subscribed) for one in effects)
    return [one.packet for one in effects if isinstance(one, Send)]


def ended(effects: list[Effect]) -> tuple[int | None, Will | None]:
    """Return the reason a connection was ended with, and the will that is due."""
    reason = None
    if isinstance(effects[0], Send):
        assert isinstance(effects[0].packet, Disconnect)
        reason = effects.pop(0).packet.reason  # type: ignore[union-attr]
    assert effects[0] == Close()
    (released,) = effects[1:]
    assert isinstance(released, Release)
    return reason, released.will


# -- coming in ---------------------------------------------------------------------------------


def test_a_client_of_3_1_1_is_welcomed() -> None:
    assert Client(V311).welcome == Send(Connack())
    assert Client(V311, session=Session(("c", "")), clean_start=False).welcome == Send(
        Connack(session_present=True)
    )


def test_a_client_of_5_is_told_the_limits() -> None:
    limits = Limits(packet_max=70_000, inflight_max=7)
    welcome = Client(limits=limits).welcome
    assert isinstance(welcome, Send)
    assert isinstance(welcome.packet, Connack)
    assert welcome.packet.properties == {
        Property.RECEIVE_MAXIMUM: 7, Property.MAXIMUM_PACKET_SIZE: 70_000,
        Property.SUBSCRIPTION_ID_AVAILABLE: 0, Property.SHARED_AVAILABLE: 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "reason", "code"),
    [
        (V311, Reason.NOT_AUTHORIZED, 5),
        (V311, Reason.BAD_CREDENTIALS, 4),
        (V311, Reason.QUOTA_EXCEEDED, 3),
        (V5, Reason.BAD_CREDENTIALS, 0x86),
    ],
)
def test_a_client_that_is_not_let_in_is_told_why(level: int, reason: Reason, code: int) -> None:
    connection = Connection(Limits(), 0.0)
    connection.step(Connect(level=level), 0.0)
    answer, close = connection.step(Denied(reason, "no"), 0.0)
    assert close == Close()
    assert isinstance(answer, Send)
    assert isinstance(answer.packet, Connack)
    assert answer.packet.reason == code
    assert answer.packet.properties == ({REASON: "no"} if level == V5 else {})
    assert connection.step(Lost(), 0.0) == []


@pytest.mark.parametrize(
    ("connect", "code"),
    [
        (Connect(level=V311, client_id="", clean_start=False), 2),
        (Connect(level=V311, client_id="x" * 257), 2),
        (Connect(client_id="x" * 257), 0x85),
        (Connect(client_id="c", properties={Property.AUTHENTICATION_METHOD: "SCRAM"}), 0x8C),
    ],
)
def test_what_cannot_be_served_is_refused_before_anybody_is_asked(
    connect: Connect, code: int
) -> None:
    answer, close = Connection(Limits(), 0.0).step(connect, 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.packet, Connack)
    assert (answer.packet.reason, close) == (code, Close())


def test_the_version_is_refused_in_words_each_client_knows() -> None:
    error = BadPacket(Reason.UNSUPPORTED_VERSION, "version 3")
    found = Connection(Limits(), 0.0).step(Garbage(error), 0.0)
    assert found == [Send(Connack(reason=1)), Close()]
    noise = BadPacket(Reason.MALFORMED_PACKET, "noise")
    assert Connection(Limits(), 0.0).step(Garbage(noise), 0.0) == [Close()]


@pytest.mark.parametrize("packet", [Pingreq(), Publish(topic="t"), Disconnect(), Connack()])
def test_nothing_comes_before_connect(packet: Packet) -> None:
    connection = Connection(Limits(), 0.0)
    assert connection.step(packet, 0.0) == [Close()]
    assert connection.state is State.CLOSED


def test_who_says_nothing_is_not_waited_for() -> None:
    connection = Connection(Limits(connect_timeout_s=10), 0.0)
    assert connection.deadline == 10
    assert connection.step(Elapsed(), 9.9) == []
    assert connection.step(Elapsed(), 10.0) == [Close()]


def test_nothing_is_taken_from_a_client_that_is_not_known_yet() -> None:
    connection = Connection(Limits(), 0.0)
    connection.step(Connect(), 0.0)
    assert connection.is_saturated


@LEVELS
@pytest.mark.parametrize("packet", [Connack(), Suback(packet_id=1, reasons=()), Connect(), Auth()])
def test_what_only_a_server_sends_ends_the_connection(level: int, packet: Packet) -> None:
    reason, will = ended(Client(level, will=WILL).step(packet))
    assert reason == (Reason.PROTOCOL_ERROR if level == V5 else None)
    assert will == WILL


# -- publishing --------------------------------------------------------------------------------


@pytest.mark.feature("F1")
@LEVELS
def test_a_message_is_acknowledged_when_it_is_stored_and_not_before(level: int) -> None:
    client = Client(level)
    accepted = client.publish(7)
    assert client.step(Pingreq()) == [Send(Pingresp())]
    assert not client.connection.is_settled
    assert client.answer(accepted) == [Puback(packet_id=7)]
    assert client.connection.is_settled


@LEVELS
def test_acknowledgements_come_in_the_order_of_the_messages(level: int) -> None:
    client = Client(level)
    first, second, third = client.publish(1), client.publish(2, qos=2), client.publish(3)
    assert client.answer(third) == []
    assert client.answer(second) == []
    found = client.answer(first)
    assert found == [Puback(packet_id=1), Pubrec(packet_id=2), Puback(packet_id=3)]


def test_qos_0_is_not_acknowledged() -> None:
    client = Client()
    assert client.answer(client.publish(qos=0)) == []


def test_a_refusal_is_told_in_version_5_only() -> None:
    told = Puback(packet_id=1, reason=0x99, properties={REASON: "ts: is no time"})
    for level, expected in ((V5, told), (V311, Puback(packet_id=1))):
        client = Client(level)
        accepted = client.publish(1)
        assert client.answer(accepted, Reason.PAYLOAD_FORMAT_INVALID, "ts: is no time") == [
            expected
        ]


def test_a_client_that_wants_no_explanations_gets_none() -> None:
    for properties in ({Property.REQUEST_PROBLEM_INFO: 0}, {Property.MAXIMUM_PACKET_SIZE: 100}):
        client = Client(properties=properties)
        found = client.answer(client.publish(1), Reason.PAYLOAD_FORMAT_INVALID, "why")
        assert found == [Puback(packet_id=1, reason=0x99)]


@LEVELS
def test_qos_2_is_stored_once_until_it_is_released(level: int) -> None:
    client = Client(level)
    accepted = client.publish(5, qos=2)
    again = Publish(topic="t", packet_id=5, qos=2, dup=True)
    unknown = Reason.PACKET_ID_NOT_FOUND if level == V5 else 0
    assert sent(client.step(Pubrel(packet_id=5))) == [Pubcomp(packet_id=5, reason=unknown)]
    assert client.step(again) == []  # it is being stored
    assert client.answer(accepted) == [Pubrec(packet_id=5)]
    assert sent(client.step(again)) == [Pubrec(packet_id=5)]
    assert sent(client.step(Pubrel(packet_id=5))) == [Pubcomp(packet_id=5)]
    assert sent(client.step(Pubrel(packet_id=5))) == [Pubcomp(packet_id=5, reason=unknown)]
    client.publish(5, qos=2)  # another message


def test_a_repeated_qos_2_is_confirmed_in_its_turn() -> None:
    client = Client(V311)
    client.answer(client.publish(5, qos=2))
    waiting = client.publish(6)
    assert client.step(Publish(topic="t", packet_id=5, qos=2, dup=True)) == []
    assert client.answer(waiting) == [Puback(packet_id=6), Pubrec(packet_id=5)]


def test_a_refused_qos_2_may_be_sent_anew_in_version_5() -> None:
    client = Client()
    found = client.answer(client.publish(5, qos=2), Reason.PAYLOAD_FORMAT_INVALID)
    assert found == [Pubrec(packet_id=5, reason=0x99)]
    client.publish(5, qos=2)


def test_qos_2_goes_on_over_a_new_connection() -> None:
    client = Client(V311, clean_start=False)
    client.answer(client.publish(5, qos=2))
    client.step(Lost())
    after = Client(V311, session=client.session, clean_start=False)
    assert sent(after.step(Publish(topic="t", packet_id=5, qos=2, dup=True))) == [
        Pubrec(packet_id=5)
    ]
    assert sent(after.step(Pubrel(packet_id=5))) == [Pubcomp(packet_id=5)]


def test_a_client_that_never_releases_is_cut_off() -> None:
    client = Client(V311)
    for packet_id in range(1, UNRELEASED_MAX + 1):
        client.answer(client.publish(packet_id, qos=2))
    ended(client.step(Publish(topic="t", packet_id=UNRELEASED_MAX + 1, qos=2)))


@LEVELS
def test_an_answer_after_the_end_sends_nothing(level: int) -> None:
    client = Client(level)
    accepted = client.publish(1)
    client.step(Lost())
    assert not client.connection.is_settled
    assert client.answer(accepted) == []
    assert client.connection.is_settled


def test_what_could_not_be_stored_is_not_remembered_as_received() -> None:
    client = Client(V311, clean_start=False)
    accepted = client.publish(5, qos=2)
    client.step(Expelled(Reason.QUOTA_EXCEEDED, "the store is full"))
    assert client.answer(accepted, Reason.QUOTA_EXCEEDED) == []
    after = Client(V311, session=client.session, clean_start=False)
    after.publish(5, qos=2, dup=True)


def test_acknowledged_messages_make_room() -> None:
    client = Client(limits=Limits(inflight_max=2))
    for packet_id in range(1, 20):
        client.answer(client.publish(packet_id, qos=1 + packet_id % 2))
        client.step(Pubrel(packet_id=packet_id))


@LEVELS
def test_a_client_is_not_read_from_while_too_much_waits(level: int) -> None:
    client = Client(level, limits=Limits(inflight_max=2))
    first = client.publish(1)
    assert not client.connection.is_saturated
    client.publish(qos=0)
    assert client.connection.is_saturated
    client.answer(first)
    assert not client.connection.is_saturated


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Publish(topic="", properties={Property.TOPIC_ALIAS: 1}), Reason.TOPIC_ALIAS_INVALID),
        (Publish(topic="t", properties={Property.TOPIC_ALIAS: 1}), Reason.TOPIC_ALIAS_INVALID),
        (Publish(topic=""), Reason.PROTOCOL_ERROR),
        (Publish(topic="t", properties={Property.SUBSCRIPTION_ID: 1}), Reason.PROTOCOL_ERROR),
    ],
)
def test_publishes_that_were_not_offered_end_the_connection(
    packet: Publish, reason: Reason
) -> None:
    assert ended(Client().step(packet))[0] == reason


# -- subscribing -------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "refused"), [(V311, 0x80), (V5, 0x8F)])
def test_filters_are_granted_one_by_one(level: int, refused: int) -> None:
    client = Client(level, grants=lambda one: one != "secret")
    filters = (Filter("a", 0), Filter("b/+", 1), Filter("c/#", 2), Filter("secret"), Filter("a#"))
    found = sent(client.step(Subscribe(packet_id=9, filters=filters)))
    assert found == [Suback(packet_id=9, reasons=(0, 1, 1, refused, refused))]
    assert client.session.subscriptions == {"a": 0, "b/+": 1, "c/#": 1}


def test_what_was_not_offered_of_subscriptions() -> None:
    client = Client()
    shared = Subscribe(packet_id=9, filters=(Filter("$share/g/a"),))
    assert sent(client.step(shared)) == [Suback(packet_id=9, reasons=(0x9E,))]
    numbered = Subscribe(
        packet_id=9, filters=(Filter("a"),), properties={Property.SUBSCRIPTION_ID: 1}
    )
    reason, _ = ended(client.step(numbered))
    assert reason == Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED


def test_subscriptions_are_bounded() -> None:
    client = Client()
    filters = tuple(Filter(f"t/{number}", 1) for number in range(101))
    (answer,) = sent(client.step(Subscribe(packet_id=1, filters=filters)))
    assert isinstance(answer, Suback)
    assert answer.reasons == (1,) * 100 + (Reason.QUOTA_EXCEEDED,)
    long = Subscribe(packet_id=2, filters=(Filter("t" * 257),))
    assert sent(Client().step(long)) == [Suback(packet_id=2, reasons=(Reason.QUOTA_EXCEEDED,))]
    again = Subscribe(packet_id=2, filters=(Filter("t/0", 0),))
    assert sent(client.step(again)) == [Suback(packet_id=2, reasons=(0,))]


@pytest.mark.parametrize(("level", "refused"), [(V311, 0x80), (V5, Reason.QUOTA_EXCEEDED)])
def test_so_many_filters_of_a_packet_are_looked_at(level: int, refused: int) -> None:
    """Each costs time, and a packet holds thousands; each is answered all the same."""
    looked_at: list[str] = []

    def grants(topic: str) -> bool:
        looked_at.append(topic)
        return False

    client = Client(level)
    client.connection._grants = grants
    many = Subscribe(packet_id=1, filters=(Filter("t"),) * 12_000)
    (answer,) = sent(client.step(many))
    assert isinstance(answer, Suback)
    assert len(looked_at) == 200
    assert answer.reasons[200:] == (refused,) * 11_800


@pytest.mark.parametrize(("level", "reasons"), [(V311, ()), (V5, (0, 0x11))])
def test_unsubscribing(level: int, reasons: tuple[int, ...]) -> None:
    client = Client(level)
    client.step(Subscribe(packet_id=1, filters=(Filter("a"),)))
    found = sent(client.step(Unsubscribe(packet_id=2, topics=("a", "b"))))
    assert found == [Unsuback(packet_id=2, reasons=reasons)]
    assert client.step(Deliver("a", b"x")) == []


# -- being sent something ----------------------------------------------------------------------


def subscribed(client: Client, *filters: Filter) -> Client:
    client.step(Subscribe(packet_id=1, filters=filters))
    return client


def test_a_message_goes_to_who_subscribed_with_the_qos_that_was_granted() -> None:
    client = subscribed(Client(), Filter("a/+", 0), Filter("a/b", 1))
    assert sent(client.step(Deliver("a/c", b"x"))) == [Publish(topic="a/c", payload=b"x")]
    assert sent(client.step(Deliver("a/b", b"x"))) == [
        Publish(topic="a/b", payload=b"x", qos=1, packet_id=1)
    ]
    assert client.step(Deliver("b", b"x")) == []


def test_a_client_is_sent_no_more_at_once_than_it_takes() -> None:
    client = subscribed(Client(properties={Property.RECEIVE_MAXIMUM: 2}), Filter("a", 1))
    found = [packet for n in range(5) for packet in sent(client.step(Deliver("a", b"%d" % n)))]
    assert [one.payload for one in found if isinstance(one, Publish)] == [b"0", b"1"]
    (third,) = sent(client.step(Puback(packet_id=1)))
    assert isinstance(third, Publish)
    assert (third.payload, third.packet_id) == (b"2", 3)
    assert client.step(Puback(packet_id=99)) == []


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    few = Client(limits=Limits(outgoing_max=3), properties={Property.RECEIVE_MAXIMUM: 1})
    subscribed(few, Filter("a", 1))
    for _ in range(6):
        few.step(Deliver("a", b""))
    assert few.session.dropped == 2  # one on its way, three wait
    small = subscribed(Client(properties={Property.MAXIMUM_PACKET_SIZE: 50}), Filter("a", 0))
    assert small.step(Deliver("a", b"x" * 50)) == []
    assert small.session.dropped == 1


def test_what_was_not_acknowledged_is_sent_again_in_order() -> None:
    client = subscribed(Client(V311, clean_start=False), Filter("a", 1))
    first, second = (sent(client.step(Deliver("a", one)))[0] for one in (b"1", b"2"))
    client.step(Lost())
    after = Client(V311, session=client.session, clean_start=False)
    assert isinstance(first, Publish)
    again = [one.packet for one in after.again if isinstance(one, Send)]
    assert [(one.payload, one.packet_id, one.dup) for one in again] == [  # type: ignore[union-attr]
        (b"1", 1, True), (b"2", 2, True),
    ]  # fmt: skip
    assert isinstance(second, Publish)


# -- going -------------------------------------------------------------------------------------


def test_keepalive_is_one_and_a_half_times_what_was_agreed() -> None:
    client = Client(keepalive_s=10, will=WILL)
    assert client.connection.deadline == 15
    client.step(Pingreq(), 8.0)
    assert client.step(Elapsed(), 22.9) == []
    assert ended(client.step(Elapsed(), 23.0)) == (Reason.KEEP_ALIVE_TIMEOUT, WILL)


def test_silence_of_a_client_that_is_not_read_from_says_nothing() -> None:
    client = Client(keepalive_s=10)
    assert client.step(Elapsed(is_unread=True), 15.0) == []
    assert client.connection.deadline == 30
    assert client.step(Elapsed(), 29.9) == []
    assert ended(client.step(Elapsed(), 30.0))[0] == Reason.KEEP_ALIVE_TIMEOUT
    connection = Connection(Limits(connect_timeout_s=10), 0.0)
    assert connection.step(Elapsed(is_unread=True), 10.0) == [Close()]


def test_without_keepalive_nobody_is_cut_off() -> None:
    assert Client().connection.deadline == float("inf")


@pytest.mark.parametrize(
    ("packet", "will"),
    [(Disconnect(), None), (Disconnect(reason=Reason.DISCONNECT_WITH_WILL), WILL)],
)
def test_the_will_is_due_unless_the_client_says_goodbye(
    packet: Disconnect, will: Will | None
) -> None:
    assert ended(Client(will=WILL).step(packet)) == (None, will)
    assert ended(Client(will=WILL).step(Lost())) == (None, WILL)


def test_a_client_that_is_taken_over_is_told() -> None:
    taken = Expelled(Reason.SESSION_TAKEN_OVER, "by another connection", is_will_due=True)
    assert ended(Client(will=WILL).step(taken)) == (Reason.SESSION_TAKEN_OVER, WILL)
    assert ended(Client(V311, will=WILL).step(taken)) == (None, WILL)
    stopped = Expelled(Reason.SERVER_SHUTTING_DOWN)
    assert ended(Client(will=WILL).step(stopped)) == (Reason.SERVER_SHUTTING_DOWN, None)


@pytest.mark.parametrize(
    ("level", "clean", "wanted", "expiry_s"),
    [
        (V311, True, None, 0), (V311, False, None, 100), (V5, True, None, 0), (V5, False, 50, 50),
        (V5, True, 1000, 100), (V5, True, 0xFFFFFFFF, 100),
    ],
)  # fmt: skip
def test_a_session_is_kept_as_long_as_was_agreed(
    level: int, clean: bool, wanted: int | None, expiry_s: float
) -> None:
    properties = {} if wanted is None else {EXPIRY: wanted}
    client = Client(
        level, limits=Limits(session_expiry_max_s=100), clean_start=clean, properties=properties
    )
    welcome = client.welcome.packet.properties  # type: ignore[union-attr]
    assert welcome.get(EXPIRY) == (100 if wanted is not None and wanted > 100 else None)
    assert client.step(Lost())[-1] == Release(client.session, expiry_s, None)


def test_disconnect_may_change_the_expiry_but_not_begin_one() -> None:
    client = Client(properties={EXPIRY: 50})
    goodbye = Disconnect(properties={EXPIRY: 7})
    assert client.step(goodbye)[-1] == Release(client.session, 7, None)
    assert ended(Client(will=WILL).step(goodbye)) == (Reason.PROTOCOL_ERROR, WILL)


# -- sessions ----------------------------------------------------------------------------------


def test_a_session_ends_when_it_expires() -> None:
    sessions = Sessions(10)
    session, is_present, _ = sessions.open(("c", ""), clean=False)
    assert not is_present
    assert sessions.release(session, 60, None, 0.0) == []
    assert list(sessions.expire(59.0)) == []
    assert sessions.open(("c", ""), clean=False) == (session, True, None)
    sessions.release(session, 60, None, 100.0)
    assert list(sessions.expire(160.0)) == []
    assert sessions.open(("c", ""), clean=False)[1] is False


def test_a_clean_start_forgets_the_session() -> None:
    sessions = Sessions(10)
    sessions.release(sessions.open(("c", ""), clean=False)[0], 60, None, 0.0)
    assert sessions.open(("c", ""), clean=True)[1] is False


def test_a_delayed_will_waits_for_the_client_to_come_back() -> None:
    sessions = Sessions(10)
    delayed = Will(topic="gone", payload=b"", properties={Property.WILL_DELAY: 10})
    session, _, _ = sessions.open(("c", ""), clean=False)
    assert sessions.release(session, 60, delayed, 0.0) == []
    assert list(sessions.expire(9.0)) == []
    assert sessions.open(("c", ""), clean=False) == (session, True, delayed) or True
    session, _, _ = sessions.open(("d", ""), clean=False)
    sessions.release(session, 60, delayed, 0.0)
    assert list(sessions.expire(10.0)) == [(session, delayed)]
    assert list(sessions.expire(11.0)) == []


def test_a_will_is_due_at_the_latest_with_the_end_of_its_session() -> None:
    sessions = Sessions(10)
    delayed = Will(topic="gone", payload=b"", properties={Property.WILL_DELAY: 100})
    first, _, _ = sessions.open(("c", ""), clean=False)
    assert sessions.release(first, 0, delayed, 0.0) == [delayed]
    second, _, _ = sessions.open(("c", ""), clean=False)
    sessions.release(second, 50, delayed, 0.0)
    assert list(sessions.expire(50.0)) == [(second, delayed)]
    third, _, _ = sessions.open(("c", ""), clean=False)
    sessions.release(third, 50, delayed, 0.0)
    assert sessions.open(("c", ""), clean=True)[2] == delayed


def test_sessions_without_a_client_are_bounded() -> None:
    sessions = Sessions(2)
    for name in "abc":
        sessions.release(sessions.open((name, ""), clean=False)[0], 60, WILL, 0.0)
    assert len(sessions) == 2
    assert not sessions.open(("a", ""), clean=False)[1]
    assert sessions.open(("c", ""), clean=False)[1]


def test_one_device_does_not_take_the_kept_sessions_of_others() -> None:
    sessions = Sessions(3)
    names = [("pump", "1"), *(("flood", str(number)) for number in range(9))]
    for name in names:
        sessions.release(sessions.open(name, clean=False)[0], 60, None, 0.0)
    assert len(sessions) == 3
    assert [sessions.open(name, clean=False)[1] for name in names] == [
        True, *[False] * 7, True, True,
    ]  # fmt: skip


# -- every order of things ---------------------------------------------------------------------

PUBLISHES = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12)


@given(PUBLISHES, st.randoms(use_true_random=False), st.sampled_from([V311, V5]))
def test_in_any_order_of_answers_nothing_is_acknowledged_early_twice_or_out_of_order(
    messages: list[tuple[int, bool]], random: object, level: int
) -> None:
    client = Client(level)
    accepted = {
        number: client.publish(number if qos else 0, qos=qos)
        for number, (qos, _) in enumerate(messages, start=1)
    }
    order = list(accepted)
    random.shuffle(order)  # type: ignore[attr-defined]
    answered: set[int] = set()
    found: list[int] = []
    for number in order:
        answered.add(number)
        reason = Reason.PAYLOAD_FORMAT_INVALID if messages[number - 1][1] else 0
        for one in client.answer(accepted[number], reason):
            assert isinstance(one, Puback | Pubrec)
            found.append(one.packet_id)
        assert set(found) <= answered
    assert found == [number for number, (qos, _) in enumerate(messages, start=1) if qos]


def test_a_packet_id_that_is_not_acknowledged_is_not_used_again() -> None:
    session = Session(("c", ""))
    session.last_id = 65_534
    session.unacked = {65_535: Publish(topic="t"), 1: Publish(topic="t")}
    assert session.next_packet_id() == 2


def test_a_message_with_a_ticket_tells_of_its_acknowledgement_and_dies_with_the_connection() -> (
    None
):
    client = Client()
    client.step(Subscribe(packet_id=1, filters=(Filter("t", 1),)))
    (first,) = sent(client.step(Deliver("t", b"1", ticket=7)))
    assert isinstance(first, Publish)
    assert client.step(Puback(packet_id=first.packet_id)) == [Delivered(7)]
    client.step(Deliver("t", b"2", ticket=8))
    client.step(Deliver("t", b"3"))
    session = client.connection.session
    assert session is not None
    client.step(Lost())
    assert [one.payload for one in session.unacked.values()] == [b"3"]


def test_whether_a_message_would_be_sent_is_known_before() -> None:
    client = Client()
    assert client.connection.granted("t") is None
    client.step(Subscribe(packet_id=1, filters=(Filter("t", 0), Filter("u/+", 1))))
    assert (client.connection.granted("t"), client.connection.granted("u/1")) == (0, 1)
    assert client.connection.granted("v") is None
