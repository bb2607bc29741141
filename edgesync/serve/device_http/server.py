"""The door for devices that speak HTTP: a 2xx means that what the request brought is on disk (I1).

h11 does the protocol, a task a connection the waiting. Requests of all devices that come while the
disk is busy become one write: the store commits in groups.
"""

import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

import h11
import trio

from edgesync.errors import RecordError, StoreError, TooManySeries
from edgesync.model import Event, Reading
from edgesync.serve.device_http.requests import STATUSES, Asked, Problem, read_target
from edgesync.serve.device_http.settings import DeviceHttpSection
from edgesync.serve.mqtt.credentials import CredentialsFile
from edgesync.serve.mqtt.shared import DeviceAttributes, Entities
from edgesync.serve.mqtt.thingsboard import Device, Message, Refused, ThingsBoard, ToldLimits
from edgesync.serve.mqtt.values import BadPayload
from edgesync.status import DeviceHttpStatus, RefusalView
from edgesync_transport import descriptors
from edgesync_transport.descriptors import Door

log = logging.getLogger(__name__)

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
# What a device is told to wait when the store takes nothing.
RETRY_S: Final = "5"
REFUSALS_SHOWN: Final = 10
JSON: Final = ("Content-Type", "application/json")


class Recorder(Protocol):
    """Where readings and events are stored; both return when they are on disk."""

    def ingest(self, readings: Sequence[Reading]) -> Awaitable[None]: ...
    def emit(self, event: Event) -> Awaitable[None]: ...


class DeviceHttpServer:
    """Takes what devices post until cancelled."""

    def __init__(
        self,
        section: DeviceHttpSection,
        recorder: Recorder,
        credentials: CredentialsFile,
        *,
        tls: ssl.SSLContext | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        entities: Callable[[], Entities],
    ) -> None:
        self._section = section
        self._recorder = recorder
        self._credentials = credentials
        self._tls = tls
        self._wall_ns = wall_ns
        self._attributes = DeviceAttributes(entities)
        self._api = ThingsBoard(
            ToldLimits(int(section.body_limit), 1),
            cast=section.type_cast,
            may_name=lambda device, name: name == device.name,
            attributes=self._attributes,
        )
        self._looked_at = float("-inf")
        self._connections = self._requests = self._readings = 0
        self._refused = self._rejected = 0
        self._problem = ""
        self._refusals: deque[RefusalView] = deque(maxlen=REFUSALS_SHOWN)

    def status(self) -> DeviceHttpStatus:
        return DeviceHttpStatus(
            connections=self._connections,
            requests=self._requests,
            readings=self._readings,
            refused=self._refused,
            rejected=self._rejected,
            problem=self._problem,
            refusals=tuple(self._refusals),
        )

    # -- connections ---------------------------------------------------------------------------

    async def serve(
        self, *, task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and answer; `started` gives the ports. Raises OSError if a port is taken."""
        section = self._section
        descriptors.raise_limit()
        most = max(1, min(section.connections_max, descriptors.limit() - 2 * descriptors.reserve()))
        door = Door("device http", most)
        with contextlib.ExitStack() as stack:
            found = []
            for port, tls in ((section.port, None), (section.tls_port, self._tls)):
                for one in await trio.open_tcp_listeners(port, host=section.host) if port else ():
                    found.append((stack.enter_context(one.socket), tls))
            async with trio.open_nursery() as nursery:
                for listening, tls in found:
                    nursery.start_soon(door.serve, listening, self._handler(tls), nursery)
                task_status.started([one.getsockname()[1] for one, _ in found])

    def _handler(
        self, tls: ssl.SSLContext | None
    ) -> Callable[[trio.socket.SocketType], Awaitable[None]]:
        async def handle(connection: trio.socket.SocketType) -> None:
            stream: trio.abc.Stream = trio.SocketStream(connection)
            if tls is not None:
                stream = trio.SSLStream(
                    trio.SocketStream(connection), tls, server_side=True, https_compatible=True
                )
            self._connections += 1
            try:
                await self._converse(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # The device went away; it has no answer, and sends it again.
            finally:
                self._connections -= 1
                with trio.move_on_after(1, shield=True):
                    await trio.aclose_forcefully(stream)

        return handle

    async def _converse(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        is_known = False
        while True:
            with trio.move_on_after(IDLE_S if is_known else STRANGER_S) as waiting:
                if not await _has_more(stream, connection):
                    return
            if waiting.cancelled_caught:
                return
            with trio.move_on_after(REQUEST_S if is_known else STRANGER_S) as taking:
                is_known = await self._answer_one(stream, connection, taking) or is_known
            if taking.cancelled_caught:
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                await _drain(stream)
                return
            connection.start_next_cycle()

    async def _answer_one(
        self, stream: trio.abc.Stream, connection: h11.Connection, limit: trio.CancelScope
    ) -> bool:
        """Take a request and answer it; returns whether it showed a token that is known."""
        known, headers = _Known(limit), [JSON]
        try:
            request = await _next(stream, connection)
            if not isinstance(request, h11.Request):
                return False
            self._requests += 1
            status, body = HTTPStatus.OK, await self._answer(stream, connection, request, known)
        except Problem as problem:
            status, body = problem.status, problem.body()
            headers += problem.headers
        except h11.RemoteProtocolError as error:
            self._rejected += 1
            status = HTTPStatus(error.error_status_hint)
            body = Problem(status, f"no HTTP/1.1: {error}").body()
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if connection.their_state is not h11.DONE:
                headers.append(("Connection", "close"))  # what it still sends is not waited for
            await stream.send_all(_answer_bytes(connection, status, headers, body))
        return known.is_known

    # -- requests ------------------------------------------------------------------------------

    async def _answer(
        self,
        stream: trio.abc.Stream,
        connection: h11.Connection,
        request: h11.Request,
        known: "_Known",
    ) -> bytes:
        """Take a request; returns the body of the answer. Raises Problem."""
        if len(request.headers) > HEAD_LINES_MAX:
            raise Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers")
        asked = read_target(request.method.decode(), request.target.decode("ascii"))
        # Before the body: who is not known does not fill the memory.
        device = self._identify(asked.token)
        known.note()
        body = await self._body(stream, connection, request)
        message = self._understand(device, asked, body if asked.payload is None else asked.payload)
        await self._store(device, asked, message)
        return message.replies[0][1] if message.replies else b""

    def _identify(self, token: str) -> Device:
        now = trio.current_time()
        if now - self._looked_at >= CREDENTIALS_S:
            self._looked_at = now
            self._credentials.refresh()
        device = self._credentials.current.of_token(token)
        if device is None:
            self._rejected += 1
            raise Problem(HTTPStatus.UNAUTHORIZED, "no device has this access token")
        return device

    async def _body(
        self, stream: trio.abc.Stream, connection: h11.Connection, request: h11.Request
    ) -> bytes:
        limit = int(self._section.body_limit)
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
            self._note_refusal(device, asked, str(error))
            raise Problem(HTTPStatus.BAD_REQUEST, error.problem, field=error.field) from error
        except Refused as error:
            self._note_refusal(device, asked, str(error))
            status = STATUSES.get(error.reason, HTTPStatus.BAD_REQUEST)
            raise Problem(status, str(error)) from error
        except Exception as error:  # a mistake of ours costs this request (I8)
            log.exception("device http: a request failed: device=%s", device.name)
            raise Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the edge's") from error
        assert message is not None
        return message

    async def _store(self, device: Device, asked: Asked, message: Message) -> None:
        try:
            if message.readings:
                await self._recorder.ingest(message.readings)
            for event in message.events:
                await self._recorder.emit(event)
            if message.has_reports:
                await self._attributes.wait_durable()
        except RecordError as error:
            self._note_refusal(device, asked, str(error))
            is_full = isinstance(error, TooManySeries)
            status = HTTPStatus.INSUFFICIENT_STORAGE if is_full else HTTPStatus.BAD_REQUEST
            raise Problem(status, str(error)) from error
        except StoreError as error:
            self._problem = str(error)
            log.error("device http: a request is not acknowledged: %s", error)
            later = (("Retry-After", RETRY_S),)
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers=later) from error
        self._readings += len(message.readings)

    def _note_refusal(self, device: Device, asked: Asked, problem: str) -> None:
        self._refused += 1
        self._refusals.append(
            RefusalView(
                device=device.name, topic=asked.topic, problem=problem, at_ns=self._wall_ns()
            )
        )


class _Known:
    """Whether the request of a connection has shown a token; then it may take its time."""

    def __init__(self, limit: trio.CancelScope) -> None:
        self.is_known = False
        self._limit = limit

    def note(self) -> None:
        self.is_known = True
        self._limit.deadline = trio.current_time() + REQUEST_S


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
