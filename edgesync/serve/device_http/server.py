"""The door for devices that speak HTTP: a 2xx means that what the request brought is on disk (I1).

h11 does the protocol, a task a connection the waiting. Requests of all devices that come while the
disk is busy become one write: the store commits in groups.
"""

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

import h11
import msgspec
import trio
from msgspec import Raw

from edgesync.errors import RecordError, StoreError, TooManySeries
from edgesync.serve.device_http.requests import CALLS, STATUSES, Asked, Problem, read_target
from edgesync.serve.device_http.settings import DeviceHttpSection
from edgesync.serve.device_http.waiting import PolledAttributes, waiting_for_call
from edgesync.serve.devices.attributes import Entities
from edgesync.serve.devices.calls import Rpc, answer_of, store_answers
from edgesync.serve.devices.credentials import CredentialsFile
from edgesync.serve.devices.door import Recorder
from edgesync.serve.devices.guesses import Guesses
from edgesync.serve.devices.package import NoPackage
from edgesync.serve.devices.package_folder import PackageFolder
from edgesync.serve.devices.provisioning import Provisioning
from edgesync.serve.devices.refusals import Refusals
from edgesync.serve.devices.thingsboard import (
    PROVISION_REQUEST,
    PROVISIONING,
    Device,
    Message,
    PackageRequest,
    Refused,
    ThingsBoard,
    ToldLimits,
)
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.failed_attempts import network_of
from edgesync.serve.tls import DoorTls
from edgesync.status import DeviceHttpStatus
from edgesync_transport import descriptors
from edgesync_transport.descriptors import Door
from edgesync_transport.places import Place, Places

log = logging.getLogger(__name__)
T = TypeVar("T")

HEAD_BYTES_MAX: Final = 16 * 1024
HEAD_LINES_MAX: Final = 100
READ_BYTES: Final = 16 * 1024
# From the first byte of a request to its last, and to the last byte of the answer.
REQUEST_S: Final = 30.0
# Between two requests of a connection.
IDLE_S: Final = 60.0
# Either, as long as nobody has shown a token: whoever has none does not hold a connection for long.
STRANGER_S: Final = 5.0
# For a device to read why it was refused while it still sends, and how much of that is read.
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20
CREDENTIALS_S: Final = 1.0
# Requests of one device that wait, for calls and for changes each: one that asks again, and has
# left what it asked before on a dead line, does not keep others out (I8).
WAITS_MAX: Final = 4
# What a device is told to wait when the store takes nothing.
RETRY_S: Final = "5"
# Of a request for credentials, which comes from somebody who has none.
PROVISION_BYTES_MAX: Final = 8192
JSON: Final = ("Content-Type", "application/json")
BYTES: Final = ("Content-Type", "application/octet-stream")


class DeviceHttpServer:
    """Takes what devices post until cancelled.

    reserved   names of entities that no device may take: those of other sources
    rpc        calls of devices; None: nobody calls them, nor answers them
    """

    def __init__(
        self,
        section: DeviceHttpSection,
        recorder: Recorder,
        credentials: CredentialsFile,
        *,
        packages: PackageFolder,
        tls: DoorTls | None = None,
        reserved: Collection[str] = (),
        wall_ns: Callable[[], int] = time.time_ns,
        entities: Callable[[], Entities],
        rpc: Rpc | None = None,
    ) -> None:
        self._rpc = rpc
        self._section = section
        self._recorder = recorder
        self._credentials = credentials
        self._provisioning = Provisioning(credentials, reserved=reserved, wall_ns=wall_ns)
        self._tls = tls
        self._packages = packages
        self._wall_ns = wall_ns
        self._attributes = PolledAttributes(entities)
        self._api = ThingsBoard(
            ToldLimits(int(section.body_limit), 1),
            cast=section.type_cast,
            may_name=lambda device, name: name == device.name,
            attributes=self._attributes,
            answers=rpc.answers if rpc is not None else lambda _method: False,
        )
        self._looked_at = float("-inf")
        self._places = Places()
        self._waits: dict[tuple[str, str], deque[trio.CancelScope]] = {}
        self._connections = self._requests = self._readings = 0
        self._rejected = 0
        self._guesses = Guesses(section.guesses_max, "tokens")
        self._problem = ""
        self._refusals = Refusals(wall_ns)

    def status(self) -> DeviceHttpStatus:
        return DeviceHttpStatus(
            connections=self._connections,
            requests=self._requests,
            readings=self._readings,
            refused=self._refusals.count,
            rejected=self._rejected,
            held_up=self._guesses.refused + self._provisioning.guesses.refused,
            problem=self._problem,
            refusals=self._refusals.newest,
        )

    # -- connections ---------------------------------------------------------------------------

    async def serve(
        self, *, task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and answer; `started` gives the ports. Raises OSError if a port is taken."""
        section = self._section
        descriptors.raise_limit()
        most = max(1, min(section.connections_max, descriptors.limit() - 2 * descriptors.reserve()))
        door = Door("device http", most, places=self._places)
        with contextlib.ExitStack() as stack:
            stack.callback(self._attributes.close)
            found = []
            for port, tls in ((section.port, None), (section.tls_port, self._tls)):
                for one in await trio.open_tcp_listeners(port, host=section.host) if port else ():
                    found.append((stack.enter_context(one.socket), tls))
            async with trio.open_nursery() as nursery:
                for listening, tls in found:
                    nursery.start_soon(door.serve, listening, self._handler(tls), nursery)
                nursery.start_soon(self._provisioning.run)
                task_status.started([one.getsockname()[1] for one, _ in found])

    def _handler(self, tls: DoorTls | None) -> Callable[[trio.socket.SocketType], Awaitable[None]]:
        async def handle(connection: trio.socket.SocketType) -> None:
            stream: trio.abc.Stream = trio.SocketStream(connection)
            if tls is not None:
                tls.refresh()
                stream = trio.SSLStream(
                    trio.SocketStream(connection),
                    tls.current,
                    server_side=True,
                    https_compatible=True,
                )
            self._connections += 1
            address = _host_of(connection)
            try:
                with self._places.hold(network_of(address)) as place:
                    await self._converse(stream, address, place)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # The device went away; it has no answer, and sends it again.
            finally:
                self._connections -= 1
                with trio.move_on_after(1, shield=True):
                    await trio.aclose_forcefully(stream)

        return handle

    async def _converse(self, stream: trio.abc.Stream, address: str, place: Place) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        is_known = False
        while True:
            with trio.move_on_after(IDLE_S if is_known else STRANGER_S) as waiting, place.idle():
                if not await _has_more(stream, connection):
                    return
            if waiting.cancelled_caught:
                return
            with trio.move_on_after(REQUEST_S if is_known else STRANGER_S) as taking:
                exchange = _Exchange(stream, connection, taking, address, place)
                is_known = await self._answer_one(exchange) or is_known
            if taking.cancelled_caught:
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                await _drain(stream)
                return
            connection.start_next_cycle()

    async def _answer_one(self, exchange: "_Exchange") -> bool:
        """Take a request and answer it; returns whether it showed a token that is known."""
        headers: list[tuple[str, str]] = []
        stream, connection = exchange.stream, exchange.connection
        with contextlib.closing(exchange):
            try:
                request = await _next(stream, connection)
                if not isinstance(request, h11.Request):
                    return False
                self._requests += 1
                status, body = HTTPStatus.OK, await self._answer(exchange, request)
            except Problem as problem:
                status, body = problem.status, problem.body()
                headers += problem.headers
            except h11.RemoteProtocolError as error:
                self._rejected += 1
                status = HTTPStatus(error.error_status_hint)
                body = Problem(status, f"no HTTP/1.1: {error}").body()
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                _skip_body(connection)
                if connection.their_state is not h11.DONE:
                    headers.append(("Connection", "close"))  # what it still sends is not awaited
                headers.append(exchange.kind)
                await stream.send_all(_answer_bytes(connection, status, headers, body))
                exchange.sent()
            return exchange.is_known

    # -- requests ------------------------------------------------------------------------------

    async def _answer(self, exchange: "_Exchange", request: h11.Request) -> bytes:
        """Take a request; returns the body of the answer. Raises Problem."""
        if len(request.headers) > HEAD_LINES_MAX:
            raise Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers")
        asked = read_target(request.method.decode(), request.target.decode("ascii"))
        if asked.topic == PROVISION_REQUEST:
            return await self._provision(exchange, asked, request)
        await self._follow_credentials()
        # Before the body: who is not known does not fill the memory.
        device = self._identify(asked.token, exchange.address)
        exchange.note_known()
        exchange.place.hand_over(device.name)
        limit = int(self._section.body_limit)
        body = await self._body(exchange.stream, exchange.connection, request, limit)
        if asked.waits_s is not None:
            return await self._wait(exchange, device, asked, asked.waits_s)
        message = self._understand(device, asked, body if asked.payload is None else asked.payload)
        await self._store(device, asked, message)
        for call in message.calls:
            assert self._rpc is not None
            return await answer_of(self._rpc, call)
        if message.package is not None:
            return await self._chunk(exchange, device, asked, message.package)
        return next((payload for _, payload in message.read_replies()), b"")

    async def _chunk(
        self, exchange: "_Exchange", device: Device, asked: Asked, wanted: PackageRequest
    ) -> bytes:
        try:
            package = wanted.package
            if package is None:
                raise NoPackage(wanted.problem)
            for name, said, held in zip(
                ("title", "version"), asked.names, (package.title, package.version), strict=True
            ):
                if said and said != held:
                    raise NoPackage(f"{name}: this device is to have {held[:100]!r}")
            data = await self._packages.chunk(package, wanted.number, wanted.size)
        except NoPackage as error:
            self._refusals.note(device, asked.topic, str(error))
            raise Problem(HTTPStatus.NOT_FOUND, str(error)) from error
        exchange.kind = BYTES
        return data

    async def _provision(self, exchange: "_Exchange", asked: Asked, request: h11.Request) -> bytes:
        """Answer a device that asks for credentials, and is a stranger still."""
        await self._follow_credentials()
        if not self._credentials.current.provisions:
            self._rejected += 1
            raise Problem(HTTPStatus.NOT_FOUND, "nobody is provisioned at this edge")
        limit = min(PROVISION_BYTES_MAX, int(self._section.body_limit))
        body = await self._body(exchange.stream, exchange.connection, request, limit)
        answer, problem = await self._provisioning.answer(body, exchange.address)
        if problem:
            self._refusals.note(PROVISIONING, asked.topic, problem)
        return answer

    async def _wait(
        self, exchange: "_Exchange", device: Device, asked: Asked, waits_s: float
    ) -> bytes:
        """Wait for what a subscriber to the topic would be sent next."""
        exchange.note_known(waits_s)
        problem = Problem(
            HTTPStatus.REQUEST_TIMEOUT, "there was nothing for this device; ask again"
        )
        async with exchange.while_there():
            with self._place(device, asked.topic, waits_s):
                try:
                    if asked.topic == CALLS:
                        body, sent = await self._next_call(exchange, device)
                    else:
                        body, sent = await self._attributes.next_body(device.name)
                    # It may have been removed meanwhile, or its token have been given away.
                    self._credentials.refresh()
                    self._identify(asked.token, exchange.address)
                    exchange.sent = sent
                    return body
                except (BadPayload, Refused) as error:
                    problem = Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
                except Problem as error:
                    problem = error
        raise problem

    @contextlib.contextmanager
    def _place(self, device: Device, topic: str, waits_s: float) -> Iterator[None]:
        """Limit how long the block waits, and how many of one device do: the oldest ends."""
        key = device.name, topic
        with trio.move_on_after(waits_s) as scope:
            waiting = self._waits.setdefault(key, deque())
            waiting.append(scope)
            if len(waiting) > WAITS_MAX:
                waiting.popleft().cancel()
            try:
                yield
            finally:
                with contextlib.suppress(ValueError):  # it was the oldest
                    waiting.remove(scope)
                if not waiting and self._waits.get(key) is waiting:
                    del self._waits[key]

    async def _next_call(
        self, exchange: "_Exchange", device: Device
    ) -> tuple[bytes, Callable[[], None]]:
        rpc = self._rpc
        if rpc is None:
            await trio.sleep_forever()
        poll = exchange.enter(waiting_for_call(rpc, device.name))
        call = await poll.next_call()
        said = {"id": call.number, "method": call.method, "params": Raw(call.params)}
        return msgspec.json.encode(said), partial(rpc.delivered, device.name, call.number)

    async def _follow_credentials(self) -> None:
        now = trio.current_time()
        if now - self._looked_at >= CREDENTIALS_S:
            self._looked_at = now
            await self._credentials.follow()

    def _identify(self, token: str, address: str) -> Device:
        shown = token.encode(errors="replace")
        if (wait_s := self._guesses.wait_s(address, shown)) > 0:
            self._rejected += 1
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"too many wrong tokens from this address; again in {math.ceil(wait_s)} s",
            )
        device = self._credentials.current.of_token(token)
        if device is None and self._credentials.refresh():  # it may have been provisioned
            device = self._credentials.current.of_token(token)
        if device is not None:
            self._provisioning.note_used(device.name)
            self._guesses.right(address, shown)
        else:
            self._rejected += 1
            self._guesses.wrong(address, shown)
            raise Problem(HTTPStatus.UNAUTHORIZED, "no device has this access token")
        return device

    async def _body(
        self,
        stream: trio.abc.Stream,
        connection: h11.Connection,
        request: h11.Request,
        limit: int,
    ) -> bytes:
        told = next((value for name, value in request.headers if name == b"content-length"), b"0")
        found = bytearray()
        if int(told) <= limit:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on) or b"")
            while len(found) <= limit:
                event = await _next(stream, connection)
                if not isinstance(event, h11.Data):
                    return bytes(found)
                found += event.data
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {limit} bytes; send less at once, or raise device_http.body_limit",
        )

    def _understand(self, device: Device, asked: Asked, payload: bytes) -> Message:
        try:
            message = self._api.message(device, asked.topic, payload, self._wall_ns())
        except BadPayload as error:
            self._refusals.note(device, asked.topic, str(error))
            raise Problem(HTTPStatus.BAD_REQUEST, error.problem, field=error.field) from error
        except Refused as error:
            self._refusals.note(device, asked.topic, str(error))
            status = STATUSES.get(error.reason, HTTPStatus.BAD_REQUEST)
            raise Problem(status, str(error)) from error
        except Exception as error:  # a mistake of ours costs this request (I8)
            log.exception("device http: a request failed: device=%s", device.name)
            raise Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the edge's") from error
        assert message is not None
        return message

    async def _store(self, device: Device, asked: Asked, message: Message) -> None:
        stood = self._attributes.refusals
        try:
            if message.readings:
                await self._recorder.ingest(message.readings)
            for event in message.events:
                await self._recorder.emit(event)
            if message.needs_disk:
                await self._attributes.wait_durable(stood)
            if message.answers and self._rpc is not None:
                for problem in await store_answers(self._rpc, message.answers):
                    raise Problem(HTTPStatus.NOT_FOUND, problem)
        except RecordError as error:
            self._refusals.note(device, asked.topic, str(error))
            is_full = isinstance(error, TooManySeries)
            status = HTTPStatus.INSUFFICIENT_STORAGE if is_full else HTTPStatus.BAD_REQUEST
            raise Problem(status, str(error)) from error
        except StoreError as error:
            self._problem = str(error)
            log.error("device http: a request is not acknowledged: %s", error)
            later = (("Retry-After", RETRY_S),)
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers=later) from error
        self._problem = ""
        self._readings += len(message.readings)


class _Exchange:
    """A request and its answer.

    address    of the peer
    kind       of the body of the answer
    is_known   the request has shown a token: it may take its time
    sent       called when the answer has been written
    place      of the connection, at the door
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        connection: h11.Connection,
        limit: trio.CancelScope,
        address: str,
        place: Place,
    ) -> None:
        self.stream, self.connection, self.address = stream, connection, address
        self.place = place
        self.is_known = False
        self.kind = JSON
        self.sent: Callable[[], None] = _nothing
        self._limit = limit
        self._stack = contextlib.ExitStack()

    def note_known(self, more_s: float = 0.0) -> None:
        self.is_known = True
        self._limit.deadline = trio.current_time() + REQUEST_S + more_s

    def enter(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Keep `context` until the answer has been written, or could not be."""
        return self._stack.enter_context(context)

    def close(self) -> None:
        self._stack.close()

    @contextlib.asynccontextmanager
    async def while_there(self) -> AsyncIterator[None]:
        """End the block when the device closes the connection: it would hear of nothing."""
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            if data := await self.stream.receive_some(READ_BYTES):
                self.connection.receive_data(bytes(data))  # the next request, early
                return
            is_gone = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()
        if is_gone:
            raise trio.BrokenResourceError


def _nothing() -> None:
    pass


def _host_of(connection: trio.socket.SocketType) -> str:
    try:
        return str(connection.getpeername()[0])
    except OSError:  # it is gone already
        return ""


def _answer_bytes(
    connection: h11.Connection,
    status: HTTPStatus,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> bytes:
    head = [*headers, ("Content-Length", str(len(body)))]
    sent = connection.send(h11.Response(status_code=status, headers=head)) or b""
    sent += connection.send(h11.Data(data=body)) or b""
    return sent + (connection.send(h11.EndOfMessage()) or b"")


def _skip_body(connection: h11.Connection) -> None:
    """Pass over what has come of the body of a request that is refused without it."""
    with contextlib.suppress(h11.RemoteProtocolError):
        while connection.their_state is h11.SEND_BODY:
            if connection.next_event() is h11.NEED_DATA:
                return


async def _drain(stream: trio.abc.Stream) -> None:
    """Read what is still sent: closed before, the connection would take the answer with it."""
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_S):
        while left > 0 and (data := await stream.receive_some(READ_BYTES)):
            left -= len(data)


async def _has_more(stream: trio.abc.Stream, connection: h11.Connection) -> bool:
    """Wait for the first bytes of a request; returns whether there are any."""
    if connection.trailing_data[0]:
        return True
    data = await stream.receive_some(READ_BYTES)
    connection.receive_data(bytes(data))
    return bool(data)


async def _next(stream: trio.abc.Stream, connection: h11.Connection) -> h11.Event | None:
    """Return what comes next, None where there is no more of this request."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
    return event if isinstance(event, h11.Event) else None
