"""What stands before every request: who may ask or write, under which name, from which page.

Plain ASGI instead of a framework's middleware class, which would buffer server-sent events.
"""

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import urlsplit

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubd.api.errors import ApiError, answer
from hubd.api.settings import ApiSettings, is_loopback
from hubd.api.tenancy import NOBODY, TENANT, TenantTokens
from hubd.registry import ApiToken

HEADERS: Final = {
    # Everything comes from here; nothing inline, so injected markup can run nothing.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not less: with no-referrer a form of our own would come with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# A probe or a load balancer has no token, and learns nothing here but "ok".
OPEN_PATHS: Final = ("/healthz",)
READING: Final = ("GET", "HEAD")
# h11 has a limit of its own for heads that come in pieces, and none for one that comes at once.
HEAD_BYTES_MAX: Final = 16 * 1024
HEAD_LINES_MAX: Final = 100
# A body may take this long, and a second more for each of so many bytes: a slow modem's upload.
BODY_S: Final = 10.0
BODY_BYTES_A_SECOND: Final = 8 * 1024
# In the scope of a request: whether whoever asks may also write.
MAY_WRITE: Final = "hubd.may_write"


def _nothing() -> None:
    pass


def _no_token() -> ApiError:
    return ApiError(
        401, "a token is needed", field="Authorization",
        remedy="Authorization: Bearer <token>, or the token as password in a browser",
    )  # fmt: skip


def _refusal(error: ApiError) -> Response:
    response = answer(error)
    if error.status == 401:
        # Basic makes a browser ask: any name, the token as password.
        response.headers["WWW-Authenticate"] = 'Basic realm="edgesync hub", charset="UTF-8"'
    return response


class Guard:
    """Checks host and token, adds the headers."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        *,
        open_paths: Set[str] = frozenset(),
        tenant_tokens: TenantTokens | None = None,
    ) -> None:
        self._app = app
        self._tenant_tokens = tenant_tokens or TenantTokens()
        self._open_paths = open_paths
        self._writers = [bytes.fromhex(digest) for digest in settings.write_token_sha256]
        self._readers = [bytes.fromhex(digest) for digest in settings.token_sha256]
        self._has_tokens = settings.has_tokens
        self._hosts = {host.lower() for host in settings.allowed_hosts}
        # On a public address the token is what protects; a browser's Host says nothing then.
        self._checks_host = is_loopback(settings.host) or bool(self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return  # No WebSockets here: the server closes what is not accepted.

        has_begun, go_on = False, _nothing

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if "content-length" in headers:
                    go_on()  # no stream: it was asked while the token was good
            await send(message)

        try:
            _check_head(scope)
            theirs = self._check(scope)
        except ApiError as error:
            await _refusal(error)(scope, receive, send_guarded)
            return
        # Whoever asked may go in the middle of it: nobody to answer, and no fault of ours.
        with contextlib.suppress(ClientDisconnect), self._while_good(scope, theirs) as let_go:
            go_on = let_go
            await self._app(scope, _Body(receive).receive, send_guarded)
            return
        if theirs is not None and not has_begun and not self._tenant_tokens.has(theirs):
            await _refusal(_no_token())(scope, receive, send_guarded)  # withdrawn meanwhile

    def _while_good(
        self, scope: Scope, token: ApiToken | None
    ) -> AbstractContextManager[Callable[[], None]]:
        """End a stream with the token it was asked with; what writes is short, and is answered."""
        if token is None or scope["method"] not in READING:
            return contextlib.nullcontext(_nothing)
        return self._tenant_tokens.asking(token)

    def _check(self, scope: Scope) -> ApiToken | None:
        """Return the tenant's token it came with, if it is one; raises ApiError."""
        if scope["path"] in self._open_paths:
            return None
        headers = Headers(scope=scope)
        if self._checks_host and not self._is_known(headers.get("host", "")):
            raise ApiError(
                421, "this hub is not known by that name", field="Host",
                remedy="add the name to api.allowed_hosts",
            )  # fmt: skip
        if scope["method"] not in READING:
            self._check_page(headers)
        token = token_in(headers.get("authorization", ""))
        if (theirs := self._tenant_tokens.find(token)) is not None:
            scope[MAY_WRITE], scope[TENANT] = theirs.may_write, theirs.tenant
            return theirs
        # Where no token is needed a wrong one is: whoever lost a tenant's must not see more by it.
        needs_none = not self._has_tokens and not token
        scope[MAY_WRITE] = needs_none or matches(token, self._writers)
        if scope[MAY_WRITE] or matches(token, self._readers):
            return None
        scope[TENANT] = NOBODY
        if scope["path"] not in OPEN_PATHS:
            raise _no_token()
        return None

    def _check_page(self, headers: Headers) -> None:
        """Let no page from elsewhere write with a browser's credentials, or from its place."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            is_ours = site in ("same-origin", "none")
        elif origin is not None:
            page = urlsplit(origin).netloc.lower()
            is_ours = page == headers.get("host", "").lower() or host_name(page) in self._hosts
        else:
            return  # No browser: browsers tell where a page that writes is from.
        if not is_ours:
            raise ApiError(
                403, "a page from elsewhere wants to write", field="Origin",
                remedy="use the hub's own dashboard, under a name in api.allowed_hosts",
            )  # fmt: skip

    def _is_known(self, host: str) -> bool:
        name = host_name(host)
        return is_loopback(name) or name in self._hosts


class _Body:
    """Receives a request; raises ApiError when its body comes too slowly."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._deadline = trio.current_time() + BODY_S

    async def receive(self) -> Message:
        with trio.move_on_at(self._deadline):
            message = await self._receive()
            if message["type"] == "http.request" and message.get("more_body"):
                self._deadline += len(message.get("body", b"")) / BODY_BYTES_A_SECOND
            else:
                self._deadline = float("inf")  # what may follow is that the client has gone
            return message
        raise ApiError(
            408, "a body that comes too slowly", field="body",
            remedy=f"send {BODY_BYTES_A_SECOND} bytes a second or more",
        )  # fmt: skip


def _check_head(scope: Scope) -> None:
    headers = scope["headers"]
    nbytes = sum(len(name) + len(value) + 4 for name, value in headers)
    nbytes += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if nbytes > HEAD_BYTES_MAX or len(headers) > HEAD_LINES_MAX:
        raise ApiError(
            431, "a head that is too large", field="head",
            remedy=f"at most {HEAD_BYTES_MAX} bytes and {HEAD_LINES_MAX} headers",
        )  # fmt: skip


def may_write(scope: Scope) -> bool:
    """Whether whoever asks may also write; a request that has not passed a `Guard` may not."""
    return bool(scope.get(MAY_WRITE))


def check_may_write(scope: Scope) -> None:
    """Raise ApiError unless whoever asks may also write."""
    if not may_write(scope):
        raise ApiError(
            403, "this token may read, not write", field="Authorization",
            remedy="use a token whose SHA-256 is in api.write_token_sha256",
        )  # fmt: skip


async def _live(receive: Receive, send: Send) -> None:
    """Say yes to starting and stopping: nothing here needs either.

    Starlette's own answer turns being cancelled into a failure, and a hub that stops cancels.
    """
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def host_name(host: str) -> str:
    """A Host header without its port, lower case, IPv6 without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def token_in(authorization: str) -> str:
    """The token of a Bearer header, or the password of a Basic one; else empty."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def matches(token: str, digests: Iterable[bytes]) -> bool:
    """Whether it is one of the accepted tokens. They are random, so a plain hash keeps them."""
    if not token:
        return False
    digest = hashlib.sha256(token.encode()).digest()
    found = [hmac.compare_digest(digest, known) for known in digests]
    return any(found)
