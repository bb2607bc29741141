"""Enrolment over HTTP: a gateway shows its token's key and secret, and leaves its public key."""

import ipaddress
import time
from collections import OrderedDict
from contextlib import aclosing
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgesync_transport.keys import Token, encode_token
from hubd.api.settings import is_loopback
from hubd.edges.registry import Invitation, Registry
from hubd.errors import EnrolRefused
from hubd.settings import Settings

PATH: Final = "/api/v1/enroll"
BODY_BYTES_MAX: Final = 4096
# Wrong attempts from one address before it has to wait; guessing 128 bits is hopeless anyway.
ATTEMPTS_MAX: Final = 20
ATTEMPTS_WINDOW_S: Final = 60.0
ADDRESSES_MAX: Final = 10_000

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
STATUS: Final = {
    "bad_credentials": 403,
    "expired": 410,
    "used": 409,
    "revoked": 409,
    "bad_key": 422,
}


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`public_key` in Z85, 40 characters."""

    routing_key: Text
    secret: Text
    public_key: Text


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    address: str
    server_key: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    code: str
    remedy: str = ""


def token_for(invitation: Invitation, settings: Settings, *, server_key: str) -> str:
    """Return the one-line token of an invitation."""
    return encode_token(
        Token(
            address=public_address(settings),
            enrol_url=public_url(settings),
            server_key=server_key,
            edge=invitation.edge,
            routing_key=invitation.routing_key,
            secret=invitation.secret,
        )
    )


def public_address(settings: Settings) -> str:
    """The link's address as edges see it; raises ValueError when it cannot be guessed."""
    if settings.hub.public:
        return settings.hub.public
    address = settings.hub.listen[0]
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        is_open = host == "*" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        is_open = False
    if is_open or address.endswith(":*"):
        raise ValueError(
            f"hub.listen is {address}, which no edge can connect to by that name; "
            "set hub.public to the address edges use, e.g. tcp://hub.example.org:7400"
        )
    return address


def public_url(settings: Settings) -> str:
    return settings.hub.public_url or f"http://{settings.api.host}:{settings.api.port}"


def is_only_here(settings: Settings) -> bool:
    """Whether edges of other machines could use the link, but not enrol."""
    link = urlsplit(public_address(settings)).hostname or ""
    http = urlsplit(public_url(settings)).hostname or ""
    return is_loopback(http) and not is_loopback(link)


class Attempts:
    """Counts failures by address, so that nobody may try for ever (I7)."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def are_too_many(self, address: str) -> bool:
        now = time.monotonic()
        recent = [at for at in self._failed.get(address, ()) if now - at < ATTEMPTS_WINDOW_S]
        if recent:
            self._failed[address] = recent
        else:
            self._failed.pop(address, None)
        return len(recent) >= ATTEMPTS_MAX

    def note_failure(self, address: str) -> None:
        self._failed.setdefault(address, []).append(time.monotonic())
        while len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)


def enrol_route(registry: Registry, settings: Settings, *, server_key: str) -> Route:
    attempts = Attempts()

    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        if attempts.are_too_many(address):
            refusal = Refusal(
                error="too many failed attempts", code="rate_limited", remedy="wait a minute"
            )
            return _json(refusal, 429)
        try:
            asked = await _read(request)
            edge = registry.redeem(asked.routing_key, asked.secret, asked.public_key)
        except EnrolRefused as error:
            attempts.note_failure(address)
            return _json(Refusal(error=error.reason, code=error.code), STATUS[error.code])
        except msgspec.DecodeError as error:
            return _json(Refusal(error=str(error), code="bad_request"), 400)
        answer = EnrolAnswer(edge=edge, address=public_address(settings), server_key=server_key)
        return _json(answer, 200)

    return Route(PATH, enrol, methods=["POST"])


async def _read(request: Request) -> EnrolRequest:
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise msgspec.DecodeError(f"a body of over {BODY_BYTES_MAX} bytes")
    return msgspec.json.decode(bytes(body), type=EnrolRequest)


def _json(value: msgspec.Struct, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
