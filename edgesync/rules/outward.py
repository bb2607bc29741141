"""Requests to servers for nodes, over HTTP/1.1: bounded in time, size and number.

Sent after the commit of the message's effects; a kill in between loses the request. There are no
redirects, and connections are not kept.
"""

import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from edgesync.rules.effects import HttpRequest, ReplyTo
from edgesync.rules.message import Message
from edgesync.rules.model import FAILURE, SUCCESS

# Of all nodes together; one more fails at once.
UNDER_WAY_MAX: Final = 50
ANSWER_BYTES_MAX: Final = 256 * 1024
HEAD_BYTES_MAX: Final = 16 * 1024
HEADERS_SHOWN: Final = 32
READ_BYTES: Final = 16 * 1024

Answer = Callable[[ReplyTo, str, Message], None]


class HttpProblem(Exception):
    """A request that got no answer that can be used."""


# A name that no server can have and a header that none is sent are no error of the network's.
ASKED_IN_VAIN: Final = (
    HttpProblem, h11.ProtocolError, OSError, trio.BrokenResourceError, ValueError,
)  # fmt: skip


class Servers:
    """See the module. `answer` is told of each request: where it goes on, how, and with what."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._context = context
        self._under_way = 0

    async def ask(self, request: HttpRequest) -> None:
        """Send a request and let its node go on with the answer."""
        message = request.reply_to.message
        if self._under_way >= UNDER_WAY_MAX:
            problem = f"{UNDER_WAY_MAX} requests are under way already"
            self._answer(request.reply_to, FAILURE, message.with_metadata(error=problem))
            return
        self._under_way += 1
        try:
            with trio.fail_after(request.timeout_s):
                status, reason, headers, body = await self._exchange(request)
        except trio.TooSlowError:
            problem = f"no answer within {request.timeout_s:g} s"
        except ASKED_IN_VAIN as error:
            problem = str(error) or type(error).__name__
        else:
            told = {**headers, "status": reason or str(status), "statusCode": str(status),
                    "statusReason": reason}  # fmt: skip
            answered = message.changed(data=_data(body)).with_metadata(**told)
            if status < 300:
                self._answer(request.reply_to, SUCCESS, answered)
                return
            problem = f"the server answered {status} {reason}".rstrip()
            message = answered
        finally:
            self._under_way -= 1
        self._answer(request.reply_to, FAILURE, message.with_metadata(error=problem))

    async def _exchange(self, request: HttpRequest) -> tuple[int, str, dict[str, str], bytes]:
        parts = urlsplit(request.url)
        is_tls = parts.scheme == "https"
        host = parts.hostname or ""
        stream: trio.abc.Stream
        stream = await trio.open_tcp_stream(host, parts.port or (443 if is_tls else 80))
        if is_tls:
            if self._context is None:
                self._context = ssl.create_default_context()
            stream = trio.SSLStream(
                stream, self._context, server_hostname=host, https_compatible=True
            )
        try:
            return await _speak(stream, request, parts.netloc.rpartition("@")[2])
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await trio.aclose_forcefully(stream)


async def _speak(
    stream: trio.abc.Stream, request: HttpRequest, host: str
) -> tuple[int, str, dict[str, str], bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
    parts = urlsplit(request.url)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    own = {name.lower() for name in request.headers}
    headers = [*request.headers.items(), ("Connection", "close")]
    headers += [("Host", host)] if "host" not in own else []
    if "content-length" not in own:
        headers.append(("Content-Length", str(len(request.body))))
    head = connection.send(h11.Request(method=request.method, target=target, headers=headers))
    data = connection.send(h11.Data(data=request.body)) if request.body else b""
    end = connection.send(h11.EndOfMessage())
    await stream.send_all((head or b"") + (data or b"") + (end or b""))
    response: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            part = bytes(await stream.receive_some(READ_BYTES))
            if not part and response is None:
                raise HttpProblem("the server closed the connection")
            connection.receive_data(part)
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > ANSWER_BYTES_MAX:
                raise HttpProblem(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage):
            break
        elif not isinstance(event, h11.InformationalResponse):
            raise HttpProblem("the server closed the connection")
    assert response is not None, "its end comes after it"
    told = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in list(response.headers)[:HEADERS_SHOWN]
    }
    return response.status_code, response.reason.decode("latin-1"), told, bytes(body)


def _data(body: bytes) -> Any:
    """Return an answer's body as data: JSON if it is some, else a text."""
    if not body:
        return {}
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")
