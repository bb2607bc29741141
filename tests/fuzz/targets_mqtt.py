"""What an MQTT client sends: packets of both versions, and whole conversations."""

import functools

from edgesync.serve.mqtt.connection import Connection, Limits
from edgesync.serve.mqtt.decode import Parser
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import V5, V311, BadPacket, Packet, Puback, Reason
from edgesync.serve.mqtt.sessions import Session
from edgesync.serve.mqtt.steps import (
    Accept,
    Admitted,
    Answered,
    Authenticate,
    Close,
    Effect,
    Garbage,
    Lost,
    Release,
    Send,
)
from tests.edgesync.serve.mqtt.packets import SAMPLES
from tests.fuzz.fuzz import Target

PACKET_MAX = 1 << 16


def samples(level: int) -> list[bytes]:
    return [encode(one, known) for known, one in SAMPLES.values() if known == level]


def read_packets(level: int, data: bytes) -> None:
    """Read `data` in two pieces; what comes out can be written and read again."""
    parser = Parser(PACKET_MAX, level=level)
    found: list[Packet] = []
    for piece in (data[: len(data) // 3], data[len(data) // 3 :]):
        parser.feed(piece)
        found += iter(parser.next, None)
    if not found:
        raise BadPacket(Reason.MALFORMED_PACKET, "not one packet")
    for one in found:
        again = Parser(PACKET_MAX, level=level)
        again.feed(encode(one, level))
        assert again.next() == one


def conversations(level: int) -> list[bytes]:
    names = ("connect", "subscribe", "publish-0", "publish-1", "publish-2", "pubrel", "puback",
             "pingreq", "unsubscribe", "disconnect")  # fmt: skip
    found = {
        name.removesuffix(f"-{'311' if level == V311 else 5}"): one
        for name, (known, one) in SAMPLES.items()
        if known == level or name.startswith(("publish", "pubrel", "ping"))
    }
    whole = [encode(found[name], level) for name in names if name in found]
    return [b"".join(whole), b"".join(whole[:4] * 2), *whole[:1]]


def converse(data: bytes) -> None:
    """Serve a client that says `data`: nothing is acknowledged that was not answered."""
    parser, connection = Parser(PACKET_MAX), Connection(Limits(inflight_max=3), 0.0)
    session, waiting = Session(("k", "")), list[int]()
    answered = acknowledged = 0
    is_closed = False
    refused: BadPacket | None = None

    def answer_all() -> None:
        """Answer what waits, the newest first."""
        nonlocal answered
        while waiting:
            answered += 1
            token = waiting.pop()
            reason = Reason.PAYLOAD_FORMAT_INVALID if token % 3 else 0
            carry_out(connection.step(Answered(token, reason), 0.0))

    def carry_out(effects: list[Effect]) -> None:
        nonlocal acknowledged, is_closed
        for effect in effects:
            match effect:
                case Send(packet):
                    assert not is_closed
                    acknowledged += isinstance(packet, Puback)
                    encode(packet, connection.level or V311)
                case Accept(token):
                    assert not is_closed
                    waiting.append(token)
                case Authenticate():
                    admitted = Admitted(session, False, lambda one: one != "a", "x")
                    carry_out(connection.step(admitted, 0.0))
                case Close():
                    assert not is_closed
                    is_closed = True
                case Release(released, expiry_s, _):
                    assert released is session
                    assert expiry_s >= 0
        assert acknowledged <= answered

    parser.feed(data)
    while not is_closed:
        if connection.is_saturated:
            answer_all()
        assert not connection.is_saturated
        try:
            packet = parser.next()
        except BadPacket as error:
            refused = error
            carry_out(connection.step(Garbage(error), 0.0))
            break
        if packet is None:
            break
        carry_out(connection.step(packet, 0.0))
    carry_out(connection.step(Lost(), 0.0))
    answer_all()
    assert connection.is_settled
    assert all(session.received.values())
    if refused is not None:
        raise refused


TARGETS = [
    Target("mqtt 3.1.1", samples(V311), functools.partial(read_packets, V311), (BadPacket,)),
    Target("mqtt 5", samples(V5), functools.partial(read_packets, V5), (BadPacket,)),
    Target("mqtt conversations", conversations(V311) + conversations(V5), converse, (BadPacket,)),
]
