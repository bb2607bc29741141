"""One client's connection: events in, effects out, no socket and no clock.   [sans-IO]

The caller carries effects out in their order and reports what came of them. A PUBLISH becomes
`Accept`; its acknowledgement is sent only when the caller reports the answer, which it does after
the commit that stored the message (I1), and in the order in which the messages came (4.6).

An acknowledgement belongs to the connection on which its message came. When that has ended it is
not sent on another one, where the packet id may mean another message by then.

QoS 2 is served on the way in: version 3.1.1 has no means to refuse it, and clients that are cut off
for it come back and send the same for ever. Messages to clients have QoS 1 at most.
"""

import collections
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgesync.serve.mqtt.packets import (
    RETURN_CODES,
    SERVER_UNAVAILABLE_311,
    SUBSCRIPTION_REFUSED_311,
    V5,
    BadPacket,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Reason,
    Suback,
    Subscribe,
    TrackedPublish,
    Unsuback,
    Unsubscribe,
)
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
    Reply,
    Send,
    Subscribed,
)
from edgesync.serve.mqtt.topics import is_valid_filter, matches

if TYPE_CHECKING:
    from edgesync.serve.mqtt.sessions import Session

CLIENT_ID_BYTES_MAX: Final = 256
SUBSCRIPTIONS_MAX: Final = 100
FILTER_CHARS_MAX: Final = 256
# Of one packet, that are looked at: 12,000 fit into 64 KiB, and take a fifth of a second.
FILTERS_MAX: Final = 2 * SUBSCRIPTIONS_MAX
# Of QoS 2, stored and not released; a client that never releases would fill the session.
UNRELEASED_MAX: Final = 1000
REASON_CHARS_MAX: Final = 200
# A client that takes smaller packets gets no explanations.
REASON_PACKET_MIN: Final = 1024
PUBLISH_HEAD_MAX: Final = 16  # bytes of a PUBLISH besides topic and payload
NEVER: Final = float("inf")
EXPIRY_NEVER: Final = 0xFFFF_FFFF
# Messages to a client that it has not acknowledged, and as many that wait for that.
OUTGOING_MAX: Final = 100


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """inflight_max counts messages that are not answered; clients of version 5 are told."""

    packet_max: int = 65_536
    inflight_max: int = 100
    outgoing_max: int = OUTGOING_MAX
    session_expiry_max_s: float = 86_400.0
    connect_timeout_s: float = 10.0


class State(enum.Enum):
    NEW = "waits for CONNECT"
    ASKED = "waits for who it is"
    OPEN = "is served"
    CLOSED = "has ended"


class _Pending:
    """A message that is not acknowledged yet."""

    __slots__ = ("answer", "packet_id", "qos")

    def __init__(self, packet_id: int, qos: int, answer: Answered | None = None) -> None:
        self.packet_id = packet_id
        self.qos = qos
        self.answer = answer


class Connection:
    """Serves one client; `step` takes an event at monotonic time `now` (seconds).

    deadline  when `Elapsed` ends the connection, if nothing comes from the client before
    """

    __slots__ = (
        "_connect",
        "_expiry_s",
        "_grants",
        "_limits",
        "_packet_max",
        "_patience_s",
        "_pending",
        "_receive_max",
        "_tells_problems",
        "_token",
        "_unanswered",
        "deadline",
        "level",
        "session",
        "state",
    )  # fmt: skip

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.state = State.NEW
        self.level = 0
        self.session: Session | None = None
        self.deadline = now + limits.connect_timeout_s
        self._connect: Connect | None = None
        self._expiry_s = 0.0
        self._patience_s = NEVER
        self._packet_max = EXPIRY_NEVER
        self._receive_max = 65_535
        self._tells_problems = False
        self._grants: Callable[[str], bool] = _nothing
        # Of messages not acknowledged yet; the first token that is not in it is `_token`.
        self._pending: collections.deque[_Pending] | None = None
        self._token = 0
        self._unanswered = 0

    @property
    def connect(self) -> Connect | None:
        """The CONNECT of a client that waits to be admitted."""
        return self._connect if self.state is State.ASKED else None

    @property
    def is_settled(self) -> bool:
        """True if every message it accepted has been answered."""
        return not self._unanswered

    @property
    def is_saturated(self) -> bool:
        """True while nothing more is to be taken from the client.

        One that sends more than its Receive Maximum waits as well. To end its connection would
        be right (3.3.4) and help nobody: paho sends all it has when it is back, is not told what
        of that was stored, and would come back with the same for ever.
        """
        if self.state is State.ASKED:
            return True
        return self._pending is not None and len(self._pending) >= self._limits.inflight_max

    @property
    def has_room(self) -> bool:
        """True if a message to the client is sent at once; some more wait, then they are lost."""
        session = self.session
        return session is not None and not session.queue and len(session.unacked) < self._window

    @property
    def _window(self) -> int:
        return min(self._receive_max, self._limits.outgoing_max)

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event, return what to do about it."""
        match event:
            case Publish():
                return self._take(event, self._publish, now)
            case Answered():
                return self._answered(event)
            case Lost():
                return self._end(None, is_will_due=True)
            case _ if self.state is State.CLOSED:
                return []
            case Admitted():
                return self._admitted(event, now)
            case Denied():
                return self._refuse(event.reason, event.problem)
            case Deliver():
                return self._deliver(
                    TrackedPublish(topic=event.topic, payload=event.payload, ticket=event.ticket)
                    if event.ticket
                    else Publish(topic=event.topic, payload=event.payload)
                )
            case Reply():
                return self._reply(event)
            case Elapsed():
                return self._elapsed(event, now)
            case Garbage():
                return self._garbage(event.error)
            case Expelled():
                return self._end(event.reason, event.problem, is_will_due=event.is_will_due)
            case Connect():
                return self._connected(event)
            case Pingreq():
                return self._take(event, self._ping, now)
            case Subscribe():
                return self._take(event, self._subscribe, now)
            case Unsubscribe():
                return self._take(event, self._unsubscribe, now)
            case Puback():
                return self._take(event, self._puback, now)
            case Pubrel():
                return self._take(event, self._pubrel, now)
            case Disconnect():
                return self._take(event, self._disconnect, now)
        name = type(event).__name__.upper()
        return self._violation(f"a server gets no {name}")

    def _take(self, packet: Any, handle: Callable[[Any], list[Effect]], now: float) -> list[Effect]:
        if self.state is State.OPEN:
            self.deadline = now + self._patience_s
            return handle(packet)
        if self.state is State.CLOSED:
            return []
        return self._violation("the first packet is no CONNECT")

    # -- who it is -----------------------------------------------------------------------------

    def _connected(self, connect: Connect) -> list[Effect]:
        if self.state is not State.NEW:
            return self._violation("a second CONNECT")
        self.level, self._connect = connect.level, connect
        self.state = State.ASKED
        if connect.level == V5:
            found = connect.properties
            self._receive_max = _number(found, Property.RECEIVE_MAXIMUM, 65_535)
            self._packet_max = _number(found, Property.MAXIMUM_PACKET_SIZE, EXPIRY_NEVER)
            self._tells_problems = bool(_number(found, Property.REQUEST_PROBLEM_INFO, 1))
            if Property.AUTHENTICATION_METHOD in found:
                return self._refuse(
                    Reason.BAD_AUTHENTICATION_METHOD, "only user name and password are known"
                )
            expiry_s: float = _number(found, Property.SESSION_EXPIRY, 0)
        else:
            expiry_s = 0 if connect.clean_start else NEVER
        if len(connect.client_id.encode()) > CLIENT_ID_BYTES_MAX:
            return self._refuse(
                Reason.CLIENT_ID_NOT_VALID, f"a client id has at most {CLIENT_ID_BYTES_MAX} bytes"
            )
        if not connect.client_id and connect.level != V5 and not connect.clean_start:
            return self._refuse(
                Reason.CLIENT_ID_NOT_VALID, "a session to be kept needs a client id"
            )
        self._expiry_s = min(expiry_s, self._limits.session_expiry_max_s)
        return [Authenticate(connect)]

    def _admitted(self, event: Admitted, now: float) -> list[Effect]:
        assert self.state is State.ASKED
        assert self._connect is not None
        connect = self._connect
        self.state, self.session, self._grants = State.OPEN, event.session, event.grants
        if connect.keepalive_s:
            self._patience_s = 1.5 * connect.keepalive_s
        self.deadline = now + self._patience_s
        if connect.will is None:
            self._connect = None  # of no more use
        found: Properties = {}
        if self.level == V5:
            found = {
                Property.RECEIVE_MAXIMUM: self._limits.inflight_max,
                Property.MAXIMUM_PACKET_SIZE: self._limits.packet_max,
                Property.SUBSCRIPTION_ID_AVAILABLE: 0,
                Property.SHARED_AVAILABLE: 0,
            }
            if _number(connect.properties, Property.SESSION_EXPIRY, 0) > self._expiry_s:
                found[Property.SESSION_EXPIRY] = int(self._expiry_s)
            if event.client_id:
                found[Property.ASSIGNED_CLIENT_ID] = event.client_id
        answer = Send(Connack(session_present=event.is_present, properties=found))
        again = [
            Send(msgspec.structs.replace(one, dup=True)) for one in event.session.unacked.values()
        ]
        known: list[Effect] = [Subscribed()] if event.session.subscriptions else []
        return [answer, *again, *self._send_queued(), *known]

    def _refuse(self, reason: Reason, problem: str) -> list[Effect]:
        """Answer a CONNECT that is not accepted."""
        self.state = State.CLOSED
        if self.level == V5:
            packet = Connack(reason=reason, properties=self._said(problem))
        else:
            packet = Connack(reason=RETURN_CODES.get(reason, SERVER_UNAVAILABLE_311))
        return [Send(packet), Close()]

    # -- what it publishes ---------------------------------------------------------------------

    def _publish(self, publish: Publish) -> list[Effect]:
        if publish.properties:
            if Property.TOPIC_ALIAS in publish.properties:
                return self._end(
                    Reason.TOPIC_ALIAS_INVALID, "topic aliases were not offered", is_will_due=True
                )
            if Property.SUBSCRIPTION_ID in publish.properties:
                return self._violation("a subscription identifier in a PUBLISH of a client")
        if not publish.topic:
            return self._violation("a PUBLISH without a topic")
        if publish.qos == 2 and (again := self._twice(publish.packet_id)) is not None:
            return again
        if self._pending is None:
            self._pending = collections.deque()
        token = self._token + len(self._pending)
        self._pending.append(_Pending(publish.packet_id, publish.qos))
        self._unanswered += 1
        return [Accept(token, publish)]

    def _twice(self, packet_id: int) -> list[Effect] | None:
        """Note a message of QoS 2; if it was sent before, return what to do instead (4.3.3)."""
        assert self.session is not None
        received = self.session.received
        if packet_id not in received:
            if len(received) >= UNRELEASED_MAX:
                return self._end(
                    Reason.RECEIVE_MAXIMUM_EXCEEDED,
                    f"more than {UNRELEASED_MAX} messages of QoS 2 without PUBREL",
                    is_will_due=True,
                )
            received[packet_id] = False
            return None
        if received[packet_id]:
            # In the order of the messages, so behind those that wait.
            if self._pending:
                self._pending.append(_Pending(packet_id, 2, Answered(0)))
                return []
            return [Send(Pubrec(packet_id=packet_id))]
        return []  # it is being stored, and will be acknowledged

    def _answered(self, event: Answered) -> list[Effect]:
        pending = self._pending
        assert pending is not None
        one = pending[event.token - self._token]
        assert one.answer is None
        one.answer = event
        self._unanswered -= 1
        if one.qos == 2 and self.session is not None:
            # Version 3.1.1 knows no refusal of one message: there the refusal was stored.
            is_void = event.reason >= Reason.UNSPECIFIED and (
                self.level == V5 or self.state is State.CLOSED
            )
            if is_void:
                self.session.received.pop(one.packet_id, None)
            else:
                self.session.received[one.packet_id] = True
        found: list[Effect] = []
        while pending and (answer := pending[0].answer) is not None:
            first = pending.popleft()
            self._token += 1
            if first.qos and self.state is State.OPEN:
                found.append(self._acknowledgement(first, answer))
        return found

    def _acknowledgement(self, one: _Pending, answer: Answered) -> Send:
        reason = answer.reason if self.level == V5 else 0
        # Of a gateway's message one part may have been refused, and the rest is stored.
        properties = self._said(answer.problem)
        if one.qos == 1:
            return Send(Puback(packet_id=one.packet_id, reason=reason, properties=properties))
        return Send(Pubrec(packet_id=one.packet_id, reason=reason, properties=properties))

    def _pubrel(self, packet: Pubrel) -> list[Effect]:
        assert self.session is not None
        received = self.session.received
        if received.get(packet.packet_id):
            del received[packet.packet_id]
            return [Send(Pubcomp(packet_id=packet.packet_id))]
        reason = Reason.PACKET_ID_NOT_FOUND if self.level == V5 else 0
        return [Send(Pubcomp(packet_id=packet.packet_id, reason=reason))]

    # -- what it subscribes to -----------------------------------------------------------------

    def _subscribe(self, packet: Subscribe) -> list[Effect]:
        if Property.SUBSCRIPTION_ID in packet.properties:
            return self._end(
                Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
                "subscription identifiers were not offered",
                is_will_due=True,
            )
        looked_at = packet.filters[:FILTERS_MAX]
        reasons = [self._subscribed(one) for one in looked_at]
        beyond = Reason.QUOTA_EXCEEDED if self.level == V5 else SUBSCRIPTION_REFUSED_311
        reasons += [beyond] * (len(packet.filters) - len(looked_at))
        return [Send(Suback(packet_id=packet.packet_id, reasons=tuple(reasons))), Subscribed()]

    def _subscribed(self, one: Filter) -> int:
        assert self.session is not None
        subscriptions = self.session.subscriptions
        reason = None
        if one.topic.startswith("$share/"):
            reason = Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        elif not is_valid_filter(one.topic) or not self._grants(one.topic):
            reason = Reason.TOPIC_FILTER_INVALID
        elif len(one.topic) > FILTER_CHARS_MAX or (
            len(subscriptions) >= SUBSCRIPTIONS_MAX and one.topic not in subscriptions
        ):
            reason = Reason.QUOTA_EXCEEDED
        if reason is not None:
            return reason if self.level == V5 else SUBSCRIPTION_REFUSED_311
        subscriptions[one.topic] = granted = min(one.qos, 1)
        return granted

    def _unsubscribe(self, packet: Unsubscribe) -> list[Effect]:
        assert self.session is not None
        subscriptions = self.session.subscriptions
        reasons = tuple(
            Reason.SUCCESS if subscriptions.pop(topic, None) is not None
            else Reason.NO_SUBSCRIPTION_EXISTED
            for topic in packet.topics
        )  # fmt: skip
        if self.level != V5:
            reasons = ()
        return [Send(Unsuback(packet_id=packet.packet_id, reasons=reasons)), Subscribed()]

    # -- what it is sent -----------------------------------------------------------------------

    def granted(self, topic: str, size: int = 0) -> int | None:
        """Return the QoS with which a message of `size` bytes would be sent; None: it is not."""
        session = self.session
        if self.state is not State.OPEN or session is None or not self.takes(topic, size):
            return None
        return max(
            (qos for one, qos in session.subscriptions.items() if matches(one, topic)), default=None
        )

    def takes(self, topic: str, size: int) -> bool:
        """Return whether the client takes a message of `size` bytes."""
        return len(topic.encode()) + size + PUBLISH_HEAD_MAX <= self._packet_max

    def _reply(self, event: Reply) -> list[Effect]:
        if self.state is not State.OPEN:
            return []
        return [Send(Publish(topic=event.topic, payload=event.payload))]

    def _deliver(self, message: Publish) -> list[Effect]:
        """Send a message if it is subscribed to; beyond the limits it is dropped and counted."""
        session = self.session
        if session is None:
            return []
        granted = [qos for one, qos in session.subscriptions.items() if matches(one, message.topic)]
        if not granted:
            return []
        size = len(message.topic.encode()) + len(message.payload) + PUBLISH_HEAD_MAX
        if size > self._packet_max:
            session.dropped += 1
            return []
        if not max(granted):
            return [Send(message)]
        if session.queue is None:
            session.queue = collections.deque()
        if len(session.queue) >= self._limits.outgoing_max:
            session.dropped += 1
            return []
        session.queue.append(message)
        return self._send_queued()

    def _send_queued(self) -> list[Effect]:
        session = self.session
        assert session is not None
        found: list[Effect] = []
        while session.queue and len(session.unacked) < self._window:
            message = session.queue.popleft()
            packet_id = session.next_packet_id()
            sent = msgspec.structs.replace(message, qos=1, packet_id=packet_id)
            session.unacked[packet_id] = sent
            found.append(Send(sent))
        return found

    def _puback(self, packet: Puback) -> list[Effect]:
        assert self.session is not None
        message = self.session.unacked.pop(packet.packet_id, None)
        known: list[Effect] = []
        if isinstance(message, TrackedPublish):
            known = [Delivered(message.ticket)]
        return [*known, *self._send_queued()]

    # -- its end -------------------------------------------------------------------------------

    def _ping(self, _packet: Pingreq) -> list[Effect]:
        return [Send(Pingresp())]

    def _disconnect(self, packet: Disconnect) -> list[Effect]:
        expiry = packet.properties.get(Property.SESSION_EXPIRY)
        if isinstance(expiry, int):
            if expiry and not self._expiry_s:
                return self._violation("a session expiry in DISCONNECT, and none in CONNECT")
            self._expiry_s = min(expiry, self._limits.session_expiry_max_s)
        return self._end(None, is_will_due=packet.reason != Reason.SUCCESS)

    def _elapsed(self, event: Elapsed, now: float) -> list[Effect]:
        if now < self.deadline:
            return []
        if self.state is State.OPEN:
            if event.is_unread:
                self.deadline = now + self._patience_s
                return []
            return self._end(Reason.KEEP_ALIVE_TIMEOUT, "nothing came in time", is_will_due=True)
        self.state = State.CLOSED
        return [Close()]

    def _garbage(self, error: BadPacket) -> list[Effect]:
        if self.state is State.NEW:
            # Nobody has said CONNECT; only the version is worth an answer (3.1.2.2).
            self.state = State.CLOSED
            if error.reason is Reason.UNSUPPORTED_VERSION:
                return [Send(Connack(reason=RETURN_CODES[error.reason])), Close()]
            return [Close()]
        return self._end(error.reason, error.problem, is_will_due=True)

    def _violation(self, problem: str) -> list[Effect]:
        return self._end(Reason.PROTOCOL_ERROR, problem, is_will_due=True)

    def _end(self, reason: Reason | None, problem: str = "", *, is_will_due: bool) -> list[Effect]:
        if self.state is State.CLOSED:
            return []
        was_open, self.state = self.state is State.OPEN, State.CLOSED
        found: list[Effect] = []
        if reason is not None and was_open and self.level == V5:
            found.append(Send(Disconnect(reason=reason, properties=self._said(problem))))
        found.append(Close())
        if was_open:
            assert self.session is not None
            self.session.forget_tracked()
            will = self._connect.will if self._connect is not None and is_will_due else None
            found.append(Release(self.session, self._expiry_s, will))
        return found

    def _said(self, problem: str) -> Properties:
        if not problem or not self._tells_problems or self._packet_max < REASON_PACKET_MIN:
            return {}
        return {Property.REASON_STRING: problem[:REASON_CHARS_MAX].replace("\0", "?")}


def _number(properties: Properties, name: Property, default: int) -> int:
    found = properties.get(name, default)
    assert isinstance(found, int)
    return found


def _nothing(_topic_filter: str) -> bool:
    return False
