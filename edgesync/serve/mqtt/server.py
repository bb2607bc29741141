"""The door for MQTT devices: all their sockets, owned by one task.

A message is acknowledged when the commit that stored it is on disk (I1). While one is under way the
next one fills: messages of all clients become one write. A client that does not read what it is
sent is not read from, and ended when its keepalive has passed; one message that cannot be stored
costs that message (I8).
"""

import collections
import logging
import select
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

import trio

from edgesync.errors import StoreError
from edgesync.serve.devices.attributes import Entities
from edgesync.serve.devices.calls import Rpc
from edgesync.serve.devices.credentials import Credentials, CredentialsFile
from edgesync.serve.devices.door import Recorder
from edgesync.serve.devices.package_folder import PackageFolder
from edgesync.serve.devices.provisioning import Provisioning
from edgesync.serve.devices.refusals import Rejections
from edgesync.serve.devices.thingsboard import (
    Message,
    Refused,
    may_subscribe,
)
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.holdings import Holdings
from edgesync.serve.listeners import Address, Listeners, clients_limit
from edgesync.serve.mqtt.calls import DoorCalls
from edgesync.serve.mqtt.chunks import ChunkSender
from edgesync.serve.mqtt.client import READ, UNSENT_MAX, WRITE, Client
from edgesync.serve.mqtt.connection import Connection, Limits
from edgesync.serve.mqtt.decode import Parser
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.identities import Identities
from edgesync.serve.mqtt.packets import V5, V311, BadPacket, Connect, Reason, Will
from edgesync.serve.mqtt.pushes import PushedAttributes
from edgesync.serve.mqtt.reader import MessageReader
from edgesync.serve.mqtt.sessions import Session, Sessions
from edgesync.serve.mqtt.settings import MqttSection
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
    Expelled,
    Garbage,
    Lost,
    Release,
    Send,
    Subscribed,
)
from edgesync.serve.mqtt.steps import Event as ConnectionEvent
from edgesync.serve.mqtt.tls import MqttTls
from edgesync.serve.mqtt.writer import MessageWriter, PendingMessage
from edgesync.status import MqttStatus

log = logging.getLogger(__name__)

EVENTS_A_TURN: Final = 256
# A handshake of TLS takes a millisecond, on a small gateway 20; the whole edge waits for a turn.
HANDSHAKES_A_TURN: Final = 4
# With TLS one is 45 KB. When there are as many the oldest gives way, but not before it has had time
# for its handshake.
STRANGERS_MAX: Final = 1000
STRANGER_S: Final = 1.0
# Of packets that are not complete, of all clients together.
HELD_MAX: Final = 64 << 20
# Of messages that wait for the disk: beyond, nobody is read from.
PENDING_MAX: Final = 16 << 20
BATCH_MAX: Final = 5000
TICK_S: Final = 1.0
# For a client to read why it was sent away.
LINGER_S: Final = 2.0
FULL: Final = "there are as many clients as there may be"
GIVES_WAY: Final = "there are as many clients as there may be, and most of them are this device's"
# After a store that took nothing, clients are told to come later.
UNAVAILABLE_S: Final = 5.0
JUST_FULL: Final = "the store was full a moment ago; come later"
# For a client to be provisioned, and what it may ask meanwhile.
PROVISION_S: Final = 60.0
PROVISION_REQUESTS_MAX: Final = 10
KEEPALIVE_TCP: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20),
                        (socket.TCP_KEEPCNT, 3))  # fmt: skip


class MqttServer:
    """Takes what devices publish until cancelled.

    reserved   names of entities that no client may use: those of other sources
    packages   firmware and software for devices
    entities   opens those of this edge, when something needs them
    rpc        calls of devices; None: nobody calls them, nor answers them
    """

    def __init__(
        self,
        section: MqttSection,
        recorder: Recorder,
        credentials: CredentialsFile,
        *,
        packages: PackageFolder,
        tls: MqttTls | None = None,
        reserved: Collection[str] = (),
        rpc: Rpc | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        entities: Callable[[], Entities],
    ) -> None:
        self._section = section
        self._credentials = credentials
        self._identities = Identities(
            credentials, section.guesses_max, self._send_away_unknown, wall_ns=wall_ns
        )
        self._tls = tls
        self._provisioning = Provisioning(
            credentials, reserved={*reserved, section.anonymous}, wall_ns=wall_ns
        )
        self._limits = Limits(
            packet_max=int(section.packet_limit),
            inflight_max=section.inflight_max,
            session_expiry_max_s=float(section.session_expiry),
        )
        self._attributes = PushedAttributes(entities, self._push)
        self._chunks = ChunkSender(packages, self._deliver, self._note_problem)
        self._reader = MessageReader(
            section, credentials, self._attributes,
            rpc.answers if rpc is not None else lambda _method: False,
            reserved=reserved, wall_ns=wall_ns,
        )  # fmt: skip
        self._calls = DoorCalls(rpc, self._deliver) if rpc is not None else None
        self._writer = MessageWriter(
            recorder, self._attributes, self._calls, self._provisioning, self._reader.note_refusal
        )
        self._clients: dict[int, Client] = {}
        self._strangers: dict[int, Client] = {}  # who has not said who it is, oldest first
        self._by_key: dict[tuple[str, str], Client] = {}
        self._by_device = Holdings[Client]()
        self._unsettled: dict[tuple[str, str], Client] = {}
        self._starved: set[Client] = set()
        self._due: list[Client] = []
        self._sessions = Sessions(section.clients_max)
        self._clients_max = section.clients_max
        self._batch: collections.deque[PendingMessage] = collections.deque()
        self._arrived, self._pushed = trio.Event(), trio.Event()
        self._pending_bytes = self._held_bytes = 0
        self._unavailable_until = float("-inf")
        self._problem = ""
        self._epoll: select.epoll
        self._nursery: trio.Nursery
        self._listeners: Listeners
        self._tls_number = -1
        self._taken_over = 0
        self._rejections = Rejections("mqtt")

    @property
    def credentials(self) -> Credentials:
        return self._credentials.current

    def status(self) -> MqttStatus:
        return MqttStatus(
            clients=len(self._by_key),
            sessions=len(self._sessions),
            messages=self._reader.messages,
            readings=self._writer.readings,
            refused=self._reader.refusals.count,
            rejected=self._rejections.count,
            held_up=self._identities.guesses.refused + self._provisioning.guesses.refused,
            taken_over=self._taken_over,
            problem=self._problem,
            refusals=self._reader.refusals.newest,
        )

    # -- sockets -------------------------------------------------------------------------------

    async def serve(
        self, *, task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and take messages; `started` gives the ports."""
        section = self._section
        self._clients_max = clients_limit("mqtt", section.clients_max)
        with select.epoll() as self._epoll:
            self._listeners = Listeners("mqtt", self._epoll)
            try:
                if section.port:
                    self._listeners.listen(section.host, section.port)
                if section.tls_port:
                    self._tls_number = self._listeners.listen(section.host, section.tls_port)
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._commit)
                    self._nursery.start_soon(self._tick)
                    self._nursery.start_soon(self._flush_pushes)
                    self._nursery.start_soon(self._provisioning.run)
                    task_status.started(self._listeners.ports())
                    await self._serve()
            finally:
                self._attributes.close()
                self._close_all()

    def _close_all(self) -> None:
        for client in list(self._clients.values()):
            self._step(client, Expelled(Reason.SERVER_SHUTTING_DOWN, "the edge stops"))
            client.send()
            self._drop(client)
        self._listeners.close()

    async def _serve(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            # While there is work, a look is cheaper than a wait.
            while self._turn():
                await trio.lowlevel.checkpoint()

    def _turn(self) -> bool:
        """Serve whoever is ready; returns whether anybody was."""
        ready = self._epoll.poll(0, EVENTS_A_TURN)
        handshakes = HANDSHAKES_A_TURN
        for number, events in ready:
            if number in self._listeners:
                self._accept(number)
                continue
            client = self._clients.get(number)
            if client is None:
                continue
            if client.is_greeting:
                if not handshakes:
                    continue  # at the next turn
                handshakes -= 1
            try:
                self._serve_one(client, events)
            except Exception:  # One bad peer must never end the others (I8).
                log.exception("mqtt: a connection failed: %s", client.address)
                self._drop(client)
        self._flush()
        return bool(ready)

    def _serve_one(self, client: Client, events: int) -> None:
        if events & READ:
            self._read(client)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._lose(client)
            return
        if events & WRITE and self._is_there(client):
            self._send(client)
            self._work(client)

    def _accept(self, number: int) -> None:
        tls = self._tls if number == self._tls_number else None
        if self._are_all_new():
            self._listeners.rest(number, self._nursery)
            return
        for connection, address in self._listeners.accept(number, self._nursery):
            if self._has_room():
                self._let_in(connection, address, tls)
            else:
                self._rejections.note(address[0], FULL)
                connection.close()

    def _are_all_new(self) -> bool:
        """Whether there are as many strangers as may be, and none has had its time."""
        if len(self._strangers) < STRANGERS_MAX:
            return False
        oldest = next(iter(self._strangers.values()))
        return trio.current_time() - oldest.since < STRANGER_S

    def _has_room(self) -> bool:
        """Make room for one more, if need be.

        First those who have not said who they are give way, then the device with most clients.
        """
        if len(self._clients) < self._clients_max and len(self._strangers) < STRANGERS_MAX:
            return True
        for client in self._strangers.values():
            self._rejections.note(client.address, FULL)
            self._lose(client)
            return True
        theirs = self._by_device.most()
        if len(theirs) < 2:
            return False
        newest = next(reversed(theirs))
        self._rejections.note(newest.address, GIVES_WAY)
        self._step(newest, Expelled(Reason.QUOTA_EXCEEDED, GIVES_WAY, is_will_due=True))
        newest.send()
        self._drop(newest)
        return True

    def _let_in(self, connection: socket.socket, address: Address, tls: MqttTls | None) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE_TCP:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        if tls is not None:
            self._identities.refresh()  # TLS refuses a certificate that it does not know
            tls.trust(self.credentials.certificates)
            try:
                connection.getpeername()  # of one that is gone already `ssl` makes no TLS at all
                connection = tls.current.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                connection.getpeername()
            except OSError:
                connection.close()
                return
        client = Client(
            connection, f"{address[0]}:{address[1]}", Parser(self._limits.packet_max),
            Connection(self._limits, trio.current_time()), since=trio.current_time(),
        )  # fmt: skip
        self._clients[client.number] = self._strangers[client.number] = client
        self._epoll.register(client.number, READ)

    def _is_there(self, client: Client) -> bool:
        return self._clients.get(client.number) is client  # another one may have its number now

    def _read(self, client: Client) -> None:
        data = client.receive()
        if data is None and client.tls_problem and not client.is_closing:
            self._rejections.note(client.address, client.tls_problem)
            self._shut(client)
        elif data is None:
            self._lose(client)
        elif data and not client.is_closing:
            before = client.parser.held_bytes
            client.parser.feed(data)
            self._held_bytes += client.parser.held_bytes - before
            self._work(client)
            if self._held_bytes > HELD_MAX and client.parser.held_bytes:
                self._step(client, Expelled(Reason.QUOTA_EXCEEDED, "too much is incomplete",
                                            is_will_due=True))  # fmt: skip

    def _work(self, client: Client) -> None:
        """Take what the client has sent, as far as it and the disk keep up."""
        connection, parser = client.connection, client.parser
        now = trio.current_time()
        before = parser.held_bytes
        while not (client.is_closing or connection.is_saturated or len(client.out) >= UNSENT_MAX):
            if self._pending_bytes >= PENDING_MAX:
                self._starved.add(client)
                break
            try:
                packet = parser.next()
            except BadPacket as error:
                self._carry_out(client, connection.step(Garbage(error), now))
                break
            if packet is None:
                break
            self._carry_out(client, connection.step(packet, now))
        self._held_bytes += parser.held_bytes - before
        self._catch_up(client)
        self._listen_for(client)

    def _catch_up(self, client: Client) -> None:
        """Send what there was no room for."""
        if client.has_room:
            self._attributes.catch_up(client)
            if self._calls is not None:
                self._calls.catch_up(client)

    def _listen_for(self, client: Client) -> None:
        """Read from a client only when what it sent before has been taken."""
        if not self._is_there(client):
            return
        is_held = not client.is_closing and (
            client.connection.is_saturated
            or len(client.out) >= UNSENT_MAX
            or client in self._starved
        )
        events = (0 if is_held else READ) | (WRITE if client.out else 0)
        if client.events != events:
            client.events = events
            self._epoll.modify(client.number, events)

    def _send(self, client: Client) -> None:
        if not client.send():
            self._lose(client)
            return
        if client.is_closing and not client.out:
            self._shut(client)
        else:
            self._catch_up(client)
            self._listen_for(client)

    def _shut(self, client: Client) -> None:
        """Send no more; what the client still sends is read and forgotten."""
        client.close_by = min(client.close_by, trio.current_time() + LINGER_S)
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose(client)
        else:
            self._listen_for(client)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for client in due:
            client.is_due = False
            if self._is_there(client):
                self._send(client)

    def _lose(self, client: Client) -> None:
        """The network connection has ended."""
        self._step(client, Lost())
        self._drop(client)

    def _drop(self, client: Client) -> None:
        if not self._is_there(client):
            return
        del self._clients[client.number]
        self._strangers.pop(client.number, None)
        self._starved.discard(client)
        if client.device is not None:
            self._by_device.remove(client.device.name, client)
        self._attributes.released(client)
        if client.key is not None and self._by_key.get(client.key) is client:
            del self._by_key[client.key]  # it was gone before it was admitted
        self._held_bytes -= client.parser.held_bytes
        self._epoll.unregister(client.number)
        client.socket.close()
        client.out.clear()
        client.note_taken()

    async def _tick(self) -> None:
        """End what has taken too long."""
        while True:
            await trio.sleep(TICK_S)
            await self._identities.follow()
            now = trio.current_time()
            if self._tls is not None:
                self._tls.refresh()
            for client in list(self._clients.values()):
                if now >= client.close_by:
                    self._lose(client)
                elif now >= client.expires_at:
                    self._step(client, Expelled(Reason.NOT_AUTHORIZED, "come back as a device"))
                elif now >= client.connection.deadline:
                    is_unread = client.connection.is_saturated or client in self._starved
                    self._step(client, Elapsed(is_unread))
            for session, will in self._sessions.expire(now):
                self._take_will(session, will)
            self._flush()

    def _send_away_unknown(self) -> None:
        """Send away who is not known any more."""
        known = self.credentials.devices
        for client in list(self._by_key.values()):
            if client.device not in known:
                self._step(client, Expelled(Reason.NOT_AUTHORIZED, "not known any more"))

    # -- effects -------------------------------------------------------------------------------

    def _step(self, client: Client, event: ConnectionEvent) -> None:
        self._carry_out(client, client.connection.step(event, trio.current_time()))

    def _carry_out(self, client: Client, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    client.out += encode(effect.packet, client.connection.level or V311)
                    self._note_due(client)
                case Accept():
                    self._take(client, effect)
                case Authenticate():
                    self._authenticate(client, effect.connect)
                case Delivered(ticket):
                    if self._calls is not None:
                        self._calls.acknowledged(client, ticket)
                case Subscribed():
                    if self._calls is not None:
                        self._calls.subscribed(client)
                    self._attributes.subscribed(client)
                case Release():
                    self._release(client, effect)
                case Close():
                    client.close_by = trio.current_time() + LINGER_S
                    self._note_due(client)

    def _note_due(self, client: Client) -> None:
        if not client.is_due:
            client.is_due = True
            self._due.append(client)

    def _authenticate(self, client: Client, connect: Connect) -> None:
        try:
            if trio.current_time() < self._unavailable_until:
                raise Refused(Reason.QUOTA_EXCEEDED, self._problem or JUST_FULL)
            device = self._identities.identify(client, connect)
        except Refused as error:
            self._rejections.note(client.address, str(error))
            self._step(client, Denied(error.reason, str(error)))
            return
        if device.is_provisioning:  # and a stranger still
            client.expires_at = trio.current_time() + PROVISION_S
        else:
            self._strangers.pop(client.number, None)
            self._by_device.add(device.name, client)
            self._provisioning.note_used(device.name)
        client.device = device
        own_id = "" if device.is_provisioning else connect.client_id  # many may have the same
        client.key = key = device.name, own_id or uuid.uuid4().hex
        if (other := self._by_key.get(key)) is not None:
            self._taken_over += 1
            self._step(other, Expelled(Reason.SESSION_TAKEN_OVER, "another connection has this "
                                       "client id", is_will_due=True))  # fmt: skip
        self._by_key[key] = client
        self._attributes.admitted(client)
        if (unsettled := self._unsettled.get(key)) is not None:
            unsettled.successor = client  # it is admitted when that one's messages are answered
        else:
            self._admit(client, connect)

    def _admit(self, client: Client, connect: Connect) -> None:
        assert client.key is not None
        assert client.device is not None
        session, is_present, will = self._sessions.open(client.key, clean=connect.clean_start)
        if will is not None:
            self._take_will(session, will)
        grants = partial(may_subscribe, client.device)
        assigned = "" if connect.client_id else client.key[1]
        self._step(client, Admitted(session, is_present, grants, assigned))

    def _release(self, client: Client, effect: Release) -> None:
        key = client.key
        assert key is not None
        if self._calls is not None:
            self._calls.released(client)
        if self._by_key.get(key) is client:
            del self._by_key[key]
        self._attributes.released(client)
        if not client.connection.is_settled:
            self._unsettled[key] = client
        now = trio.current_time()
        is_kept = client.device is not None and not client.device.is_provisioning
        expiry_s = effect.expiry_s if is_kept else 0
        for will in self._sessions.release(effect.session, expiry_s, effect.will, now):
            self._take_will(effect.session, will)

    def _settle(self, client: Client) -> None:
        """Admit who waits for this client's last message to be answered."""
        key = client.key
        if key is None or self._unsettled.get(key) is not client:
            return
        del self._unsettled[key]
        successor = client.successor
        if successor is not None and self._by_key.get(key) is successor:
            connect = successor.connection.connect
            if connect is not None and not successor.is_closing:
                self._admit(successor, connect)
                self._work(successor)

    # -- messages ------------------------------------------------------------------------------

    def _take(self, client: Client, accept: Accept) -> None:
        assert client.device is not None
        publish = accept.publish
        item = self._reader.read(
            client, accept.token, client.device, publish.topic, publish.payload
        )
        if item.message.provision is not None:
            client.provisions += 1
            if client.provisions > PROVISION_REQUESTS_MAX:
                item.message = Message()
                self._step(client, Expelled(Reason.QUOTA_EXCEEDED, "too many requests"))
        self._attributes.named(client, item.message.children)
        if item.message.gone:
            self._attributes.unnamed(client, item.message.gone)
        self._enqueue(item)

    def _push(self, client: Client, topic: str, payload: bytes) -> None:
        """Send something that nobody has asked for now."""
        self._deliver(client, Deliver(topic, payload))

    def _deliver(self, client: Client, message: ConnectionEvent) -> None:
        if self._is_there(client):
            self._step(client, message)
            self._pushed.set()

    async def _flush_pushes(self) -> None:
        while True:
            await self._pushed.wait()
            self._pushed = trio.Event()
            self._flush()

    def _take_will(self, session: Session, will: Will) -> None:
        device = self.credentials.of_name(session.key[0])
        if device is not None and not device.is_provisioning:
            self._enqueue(self._reader.read(None, 0, device, will.topic, will.payload))

    def _enqueue(self, item: PendingMessage) -> None:
        item.stood = self._attributes.refusals
        self._pending_bytes += item.cost
        self._batch.append(item)
        self._arrived.set()

    def _note_problem(self, client: Client, topic: str, problem: str) -> None:
        if client.device is not None:
            self._reader.note_problem(client.device, topic, problem)

    async def _commit(self) -> None:
        """Store what has come, then answer it; while that lasts, the next write fills."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._batch:
                items = [self._batch.popleft() for _ in range(min(BATCH_MAX, len(self._batch)))]
                self._pending_bytes -= sum(item.cost for item in items)
                items = self._without_given_up(items)
                try:
                    await self._writer.write(items)
                except StoreError as error:
                    self._give_up(items, error)
                else:
                    self._problem = "" if items else self._problem
                    self._answer(items)
                self._feed_starved()
                self._flush()

    def _answer(self, items: Sequence[PendingMessage]) -> None:
        for item in items:
            client = item.client
            if client is None:
                continue
            is_refused = item.reason >= Reason.UNSPECIFIED
            # A refusal that version 3.1.1 cannot tell is acknowledged when it is stored (I1).
            if is_refused and client.connection.level != V5 and not self._is_kept(item):
                self._step(client, Expelled(item.reason, item.problem, is_will_due=True))
            self._step(client, Answered(item.token, item.reason, item.problem))
            self._reply(client, item.message)
            if item.message.package is not None and self._is_there(client):
                self._nursery.start_soon(self._chunks.send, client, item.message.package)
            if self._calls is not None and self._is_there(client):
                for call in item.message.calls:
                    self._nursery.start_soon(self._calls.answer, client, call)
                message = item.message
                if (message.children or message.gone) and not client.is_closing:
                    self._calls.note_children(client, message.children, message.gone)
            self._resume(client)

    def _reply(self, client: Client, message: Message) -> None:
        try:
            for topic, payload in message.read_replies():
                self._step(client, Deliver(topic, payload))
        except (BadPayload, Refused) as error:  # it could be read when it was asked for
            self._note_problem(client, message.replies[0][0], str(error))

    def _is_kept(self, item: PendingMessage) -> bool:
        return self._section.bad_payload == "keep" and bool(item.message.events)

    def _resume(self, client: Client) -> None:
        if client.connection.is_settled:
            self._settle(client)
        if self._is_there(client) and client.parser.held_bytes:
            self._work(client)
        else:
            self._listen_for(client)

    def _give_up(self, items: Sequence[PendingMessage], error: StoreError) -> None:
        """Acknowledge nothing: clients keep what they have, and come again later."""
        self._problem = str(error)
        self._unavailable_until = trio.current_time() + UNAVAILABLE_S
        log.error("mqtt: %d messages are not acknowledged: %s", len(items), error)
        self._expel(items, str(error))

    def _without_given_up(self, items: Sequence[PendingMessage]) -> list[PendingMessage]:
        """Leave out what came behind a message that was not stored: it comes again with that."""
        void = [one for one in items if one.client is not None and one.client.is_given_up]
        self._expel(void, self._problem)
        return [one for one in items if one.client is None or not one.client.is_given_up]

    def _expel(self, items: Sequence[PendingMessage], problem: str) -> None:
        for item in items:
            if (client := item.client) is not None:
                client.is_given_up = True
                self._step(client, Expelled(Reason.QUOTA_EXCEEDED, problem))
                self._step(client, Answered(item.token, Reason.QUOTA_EXCEEDED))
                self._resume(client)

    def _feed_starved(self) -> None:
        starved, self._starved = self._starved, set()
        for client in starved:
            if self._is_there(client):
                self._work(client)
