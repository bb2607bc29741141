"""Enrolment: a gateway shows its token and leaves its public key, over the link or over HTTP.

Over the link the token's holder is a guest, see `keys.guest_keys`; over HTTP it shows the token's
key and secret, for hubs behind a proxy that lets nothing else through.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgesync.errors import StoreVersion
from edgesync.serve.failed_attempts import FailedAttempts, network_of
from edgesync_transport.keys import Token, encode_token
from edgesync_transport.seldom import Seldom
from hubd.errors import EnrolRefused, OwnedBusy, OwnedUnusable
from hubd.registry import Invitation, Registry
from hubd.settings import Settings

log = logging.getLogger(__name__)

PATH: Final = "/api/v1/enroll"
BODY_BYTES_MAX: Final = 4096
# Wrong attempts of one network before it is told to wait; guessing 128 bits is hopeless anyway.
ATTEMPTS_MAX: Final = 20
ATTEMPTS_WINDOW_S: Final = 60.0
# For the registry, and for those who came before.
WAIT_S: Final = 5.0

# The registry cannot be looked at, or was migrated by a newer version meanwhile.
UNUSABLE: Final = (OwnedUnusable, StoreVersion)

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
STATUS: Final = {
    "bad_credentials": 403,
    "expired": 410,
    "used": 409,
    "revoked": 409,
    "bad_key": 422,
    "rate_limited": 429,
    "no_address": 503,
}


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`public_key` in Z85, 40 characters."""

    routing_key: Text
    secret: Text
    public_key: Text


class GuestRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same of a guest, whose key on the link says all the rest."""

    public_key: Text


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    address: str
    server_key: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    code: str
    remedy: str = ""


def token_maker(settings: Settings, *, server_key: str) -> Callable[[Invitation], str]:
    """Return what makes the one-line token of an invitation.

    Raises ValueError for a hub without an address: a step before an invitation takes the place of
    an older one.
    """
    address = public_address(settings)

    def make(invitation: Invitation) -> str:
        return encode_token(
            Token(
                address=address,
                enrol_url=settings.hub.public_url,
                server_key=server_key,
                edge=invitation.edge,
                routing_key=invitation.routing_key,
                secret=invitation.secret,
            )
        )

    return make


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


class Enrolment:
    """Redeems tokens beside the loop: the registry's file may be held by another process.

    on_enrolled   is awaited before an edge is answered, for it may come at once
    """

    def __init__(self, registry: Registry, settings: Settings, *, server_key: str) -> None:
        self._registry = registry
        self._settings = settings
        self._server_key = server_key
        # They decide over no right token: all gateways of a site may come from one address, and so
        # may whoever wants to keep them out. What guessing may cost is bounded elsewhere: one
        # attempt is looked up at a time, and that is a read.
        self._failed = FailedAttempts(ATTEMPTS_MAX, ATTEMPTS_WINDOW_S)
        self._seldom = Seldom()
        self._one_at_a_time = trio.CapacityLimiter(1)
        self.on_enrolled: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def of_request(self, asked: EnrolRequest, address: str) -> EnrolAnswer:
        """Redeem what came over HTTP; raises EnrolRefused, and OwnedUnusable for now."""
        redeem = partial(
            self._registry.enrolments.redeem, asked.routing_key, asked.secret, asked.public_key
        )
        try:
            return await self._redeem(redeem, address)
        except EnrolRefused as refused:
            if self._failed.note(network_of(address)) and refused.code == "bad_credentials":
                raise EnrolRefused(
                    "rate_limited", "too many failed attempts; wait a minute"
                ) from refused
            raise

    async def of_guest(self, routing_key: str, question: bytes) -> bytes:
        """Answer a guest of the link: an EnrolAnswer or a Refusal, in JSON."""
        try:
            asked = msgspec.json.decode(question, type=GuestRequest)
            redeem = partial(
                self._registry.enrolments.redeem_as_guest, routing_key, asked.public_key
            )
            return msgspec.json.encode(await self._redeem(redeem, "the link"))
        except (EnrolRefused, *UNUSABLE, msgspec.DecodeError) as error:
            return msgspec.json.encode(_refusal(error)[0])

    async def _redeem(self, redeem: Callable[[], str], origin: str) -> EnrolAnswer:
        try:
            address = public_address(self._settings)
        except ValueError as error:  # before the token is used up for nothing
            raise EnrolRefused("no_address", str(error)) from error
        try:
            with trio.fail_after(WAIT_S):
                edge = await trio.to_thread.run_sync(redeem, limiter=self._one_at_a_time)
        except trio.TooSlowError:
            raise OwnedBusy(self._registry.name) from None
        except EnrolRefused as refused:
            if (again := self._seldom.ask(refused.code)) is not None:
                log.warning(
                    "enrolment refused: %s, from %s; %d more before", refused.reason, origin, again
                )
            raise
        log.info("enrolled: edge=%s from %s", edge, origin)
        with suppress(*UNUSABLE):  # it is looked at again soon
            await self.on_enrolled()
        return EnrolAnswer(edge=edge, address=address, server_key=self._server_key)


def enrol_route(enrolment: Enrolment) -> Route:
    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        try:
            return _json(await enrolment.of_request(await _read(request), address), 200)
        except (EnrolRefused, *UNUSABLE, msgspec.DecodeError) as error:
            return _json(*_refusal(error))

    return Route(PATH, enrol, methods=["POST"])


def _refusal(error: Exception) -> tuple[Refusal, int]:
    """Return what is answered, and its status over HTTP."""
    if isinstance(error, EnrolRefused):
        return Refusal(error=error.reason, code=error.code), STATUS[error.code]
    if isinstance(error, UNUSABLE):
        problem = "the hub cannot look at its registry now"
        return Refusal(error=problem, code="busy", remedy="try again"), 503
    return Refusal(error=str(error), code="bad_request"), 400


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
