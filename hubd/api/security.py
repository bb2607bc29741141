"""What stands before every request: who may ask or write, under which name, from which page.

Plain ASGI instead of a framework's middleware class, which would buffer server-sent events.
"""

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlencode

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubd.api.errors import ApiError, answer
from hubd.api.logins import COOKIE, Logins
from hubd.api.rights import MAY_WRITE, USER
from hubd.api.settings import ApiSettings, is_loopback
from hubd.api.tenancy import NOBODY, TENANT, TenantTokens

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
# What the page that asks for a password needs.
STATIC: Final = "/static/"
LOGIN: Final = "/login"
NEXT_CHARS_MAX: Final = 2048


def _nothing() -> None:
    pass


def _no_token() -> ApiError:
    return ApiError(
        401, "a token is needed", field="Authorization",
        remedy="Authorization: Bearer <token>; commands take it as --token or HUBD_TOKEN, and a "
        "browser is asked for a password; `hubd token` makes one",
    )  # fmt: skip


def _refusal(error: ApiError, *, asks_browser: bool = True) -> Response:
    response = answer(error)
    if error.status == 401 and asks_browser:
        # Basic makes a browser ask: any name, the token as password.
        response.headers["WWW-Authenticate"] = 'Basic realm="edgesync hub", charset="UTF-8"'
    return response


class _Credential(NamedTuple):
    """What a request came with that may become void: a tenant's token, or a user's session."""

    is_valid: Callable[[], bool]
    while_valid: Callable[[], AbstractContextManager[Callable[[], None]]]


def _while_valid(
    scope: Scope, credential: _Credential | None
) -> AbstractContextManager[Callable[[], None]]:
    """End a stream with what it was asked with; what writes is short, and is answered."""
    if credential is None or scope["method"] not in READING:
        return contextlib.nullcontext(_nothing)
    return credential.while_valid()


class Guard:
    """Checks host, page, and token or session; adds the headers."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        *,
        open_paths: Set[str] = frozenset(),
        tenant_tokens: TenantTokens | None = None,
        logins: Logins | None = None,
    ) -> None:
        self._app = app
        self._tenant_tokens = tenant_tokens or TenantTokens()
        self._logins = logins
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
                # A thread that read was not given up when the credential went: 401 from here on.
                await trio.lowlevel.checkpoint_if_cancelled()
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if "content-length" in headers:
                    go_on()  # no stream: it was asked while the token was good
            await send(message)

        try:
            _check_head(scope)
            credential = self._check(scope)
        except ApiError as error:
            await self._refused(scope, error)(scope, receive, send_guarded)
            return
        body = _Body(receive, None if scope["method"] in READING else credential)
        # Whoever asked may go in the middle of it: nobody to answer, and no fault of ours.
        with contextlib.suppress(ClientDisconnect), _while_valid(scope, credential) as let_go:
            go_on = let_go
            await self._app(scope, body.receive, send_guarded)
            return
        if credential is not None and not has_begun and not credential.is_valid():
            refusal = self._refused(scope, _no_token())  # withdrawn meanwhile
            await refusal(scope, receive, send_guarded)

    def _refused(self, scope: Scope, error: ApiError) -> Response:
        """Answer for an error: a browser is led to the page that asks for a password."""
        if self._logins is None or not self._logins.has_users or error.status != 401:
            return _refusal(error)
        headers = Headers(scope=scope)
        is_page = scope["method"] in READING and "text/html" in headers.get("accept", "")
        if is_page and not scope["path"].startswith(("/api/", "/ui/")):
            query = scope["query_string"].decode("latin-1")
            wanted = scope["path"] + (f"?{query}" if query else "")
            known = {"next": wanted} if len(wanted) <= NEXT_CHARS_MAX else {}
            return RedirectResponse(f"{LOGIN}?{urlencode(known)}", 303)
        # Basic would open a browser's own dialogue over a page whose session has ended.
        return _refusal(error, asks_browser="authorization" in headers)

    def _check(self, scope: Scope) -> _Credential | None:
        """Return what it came with that may become void meanwhile, if it did; raises ApiError."""
        if scope["path"] in self._open_paths:
            return None
        headers = Headers(scope=scope)
        if self._checks_host and not self._is_known(headers.get("host", "")):
            raise ApiError(
                421, "this hub is not known by that name", field="Host",
                remedy="add the name to api.allowed_hosts",
            )  # fmt: skip
        if scope["method"] not in READING:
            self._check_page(headers, has_cookie=COOKIE in Request(scope).cookies)
        token = token_in(headers.get("authorization", ""))
        if (theirs := self._tenant_tokens.find(token)) is not None:
            scope[MAY_WRITE], scope[TENANT] = theirs.may_write, theirs.tenant
            has, while_valid = self._tenant_tokens.has, self._tenant_tokens.while_valid
            return _Credential(partial(has, theirs), partial(while_valid, theirs))
        logins = self._logins
        if logins is not None and not token:
            cookie = Request(scope).cookies.get(COOKIE, "")
            found = logins.find(cookie)
            if found is not None:
                session, user = found
                scope[USER], scope[TENANT] = user, user.tenant
                # Of the same user, with the same role and sites.
                return _Credential(
                    lambda: logins.find(cookie) == found, partial(logins.while_valid, session)
                )
        # Where no token is needed a wrong one is: whoever lost a tenant's must not see more by it.
        has_users = logins is not None and logins.has_users
        needs_none = not self._has_tokens and not has_users and not token
        scope[MAY_WRITE] = needs_none or matches(token, self._writers)
        if scope[MAY_WRITE] or matches(token, self._readers):
            return None
        scope[TENANT] = NOBODY
        path = scope["path"]
        is_login = has_users and (path == LOGIN or path.startswith(STATIC))
        if path not in OPEN_PATHS and not is_login:
            raise _no_token()
        return None

    def _check_page(self, headers: Headers, *, has_cookie: bool) -> None:
        """Let no page from elsewhere write with a browser's credentials, or from its place."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            is_ours = site in ("same-origin", "none")
        elif origin is not None:
            # scheme://host:port, or null; whatever else there is after :// is no name of ours
            page = origin.partition("://")[2].lower()
            is_ours = page == headers.get("host", "").lower() or host_name(page) in self._hosts
        else:
            # No browser: browsers tell where a page that writes is from. One that has a cookie and
            # does not is too old to be believed.
            is_ours = not has_cookie
        if not is_ours:
            raise ApiError(
                403, "a page from elsewhere wants to write", field="Origin",
                remedy="use the hub's own dashboard, under a name in api.allowed_hosts, or a token",
            )  # fmt: skip

    def _is_known(self, host: str) -> bool:
        name = host_name(host)
        return is_loopback(name) or name in self._hosts


class _Body:
    """Receives a request; raises ApiError when its body comes too slowly.

    Also when what it came with is void by the end: a body may take minutes, and whoever was removed
    meanwhile, or has another role, would do with it what they may no more.
    """

    def __init__(self, receive: Receive, credential: _Credential | None) -> None:
        self._receive = receive
        self._credential = credential
        self._deadline = trio.current_time() + BODY_S

    async def receive(self) -> Message:
        with trio.move_on_at(self._deadline):
            message = await self._receive()
            if message["type"] == "http.request" and message.get("more_body"):
                self._deadline += len(message.get("body", b"")) / BODY_BYTES_A_SECOND
            else:
                self._deadline = float("inf")  # what may follow is that the client has gone
                self._check_still(message)
            return message
        raise ApiError(
            408, "a body that comes too slowly", field="body",
            remedy=f"send {BODY_BYTES_A_SECOND} bytes a second or more",
        )  # fmt: skip

    def _check_still(self, message: Message) -> None:
        credential, self._credential = self._credential, None
        if message["type"] == "http.request" and credential and not credential.is_valid():
            raise _no_token()


def _check_head(scope: Scope) -> None:
    headers = scope["headers"]
    nbytes = sum(len(name) + len(value) + 4 for name, value in headers)
    nbytes += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if nbytes > HEAD_BYTES_MAX or len(headers) > HEAD_LINES_MAX:
        raise ApiError(
            431, "a head that is too large", field="head",
            remedy=f"at most {HEAD_BYTES_MAX} bytes and {HEAD_LINES_MAX} headers",
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
