"""Logging in and out, and the page of whoever is logged in."""

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from hubd.api import params, routes
from hubd.api.body import read_form
from hubd.api.errors import ApiError
from hubd.api.logins import BROWSER_COOKIE, BROWSER_S, COOKIE, SESSION_S, Logins
from hubd.api.rights import user_of
from hubd.api.security import LOGIN, NEXT_CHARS_MAX
from hubd.errors import HubError, UserRefused
from hubd.registry import Role
from hubd.registry.passwords import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN
from hubd.web.pages import Pages

FORM_BYTES_MAX: Final = 4096
BROWSER_CHARS_MAX: Final = 200
LISTED: Final = 50
Line = Annotated[str, Meta(max_length=PASSWORD_CHARS_MAX)]
Path = Annotated[str, Meta(max_length=NEXT_CHARS_MAX)]


class LoginQuery(params.Params, frozen=True, kw_only=True):
    next: Path = "/"


class LoginForm(params.Body, frozen=True, kw_only=True):
    name: Line
    password: Line
    next: Path = "/"


class PasswordForm(params.Body, frozen=True, kw_only=True):
    old: Line
    new: Line
    again: Line


class LogoutForm(params.Body, frozen=True, kw_only=True):
    pass


def account_routes(logins: Logins, pages_of: Callable[[Request], Pages]) -> list[BaseRoute]:
    """Return the routes; `pages_of` gives the pages of whoever asks."""

    async def login(request: Request) -> Response:
        wanted = routes.read_params(request, LoginQuery)
        return pages_of(request).shown_as("login.html", next=local(wanted.next), problem=None)

    async def log_in(request: Request) -> Response:
        form = await read_form(request, LoginForm, FORM_BYTES_MAX)
        try:
            known = request.cookies.get(BROWSER_COOKIE, "")[:BROWSER_CHARS_MAX]
            token = await logins.log_in(form.name, form.password, _address(request), known)
        except ApiError as error:
            return pages_of(request).shown_as(
                "login.html", error.status, next=local(form.next), problem=error.problem
            )
        answer = RedirectResponse(local(form.next), 303)
        # A proxy that ends TLS says so; without one the cookie would not come back.
        secure = request.headers.get("x-forwarded-proto", "") == "https"
        for name, value, age_s, path in (
            (COOKIE, token, SESSION_S, "/"),
            (BROWSER_COOKIE, logins.browser_of(token), BROWSER_S, LOGIN),
        ):
            answer.set_cookie(
                name, value, max_age=int(age_s), path=path, httponly=True, samesite="lax",
                secure=secure,
            )  # fmt: skip
        return answer

    async def log_out(request: Request) -> Response:
        await read_form(request, LogoutForm, FORM_BYTES_MAX)
        logins.log_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse(LOGIN, 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return answer

    async def account(request: Request) -> Response:
        routes.read_params(request, params.Nothing)
        return await _account(request, None)

    async def change_password(request: Request) -> Response:
        form = await read_form(request, PasswordForm, FORM_BYTES_MAX)
        try:
            await _change(request, form)
        except ApiError as error:
            return await _account(request, error)
        return await _account(request, None, is_changed=True)

    async def _change(request: Request, form: PasswordForm) -> None:
        if form.new != form.again:
            raise ApiError(
                400, "the new password is not the same twice", field="again", remedy="type it again"
            )
        token = request.cookies.get(COOKIE, "")
        try:
            await logins.change_password(token, form.old, form.new, _address(request))
        except UserRefused as error:
            raise ApiError(400, str(error), field="new", remedy="choose another one") from error
        except HubError as error:
            raise ApiError(503, str(error), remedy="try again") from error

    async def _account(
        request: Request, error: ApiError | None, *, is_changed: bool = False
    ) -> Response:
        user = user_of(request.scope)
        if user is None:
            raise ApiError(
                403, "a token or this machine asks here, and no user", field="role",
                remedy="`hubd users add NAME --role admin` makes one",
            )  # fmt: skip
        pages = pages_of(request)
        changed = await pages.changed_by_users(LISTED) if user.role is Role.ADMIN else None
        return pages.shown_as(
            "account.html", 200 if error is None else error.status, user=user,
            least=PASSWORD_CHARS_MIN, problem=None if error is None else error.problem,
            is_changed=is_changed, changed=changed,
        )  # fmt: skip

    return [
        Route(LOGIN, login, methods=["GET"]),
        Route(LOGIN, log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
        Route("/account", account, methods=["GET"]),
        Route("/account", change_password, methods=["POST"]),
    ]


def local(path: str) -> str:
    """Return a path of this hub to go on to; the first page for whatever leads elsewhere."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
