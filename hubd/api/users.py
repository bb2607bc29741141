"""Users of the hub, as admins see and change them: each those of their own tenant."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from hubd.api.context import Context
from hubd.api.entity_shapes import Who
from hubd.api.errors import ApiError
from hubd.api.logins import Logins
from hubd.api.params import Body, By, Cursor, Limit, Nothing, Params, make_cursor, read_cursor
from hubd.errors import HubError, UserRefused, UserUnknown
from hubd.owned.threads import in_thread
from hubd.registry import Role, User
from hubd.registry.passwords import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN
from hubd.registry.users import NAME_RULE, SITES_MAX

T = TypeVar("T")

UserName = Annotated[str, Meta(description=NAME_RULE, min_length=1, max_length=63)]
RoleName = Annotated[Role, Meta(description="admin, operator or viewer")]
Sites = Annotated[
    tuple[str, ...],
    Meta(
        description=f"of an operator, at most {SITES_MAX}; none: every site", max_length=SITES_MAX
    ),
]
Password = Annotated[
    str,
    Meta(
        description=f"{PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters",
        min_length=PASSWORD_CHARS_MIN,
        max_length=PASSWORD_CHARS_MAX,
    ),
]


class UsersPage(Params, frozen=True, kw_only=True):
    limit: Limit = 100
    after: Cursor | None = None


class OneUser(Params, frozen=True, kw_only=True):
    user: UserName


class NewUser(Body, frozen=True, kw_only=True):
    user: UserName
    role: RoleName
    password: Password
    sites: Sites = ()
    by: By = ""


class ChangeUser(Body, frozen=True, kw_only=True):
    """What is not named stays. With `role` or `sites` both are set, `sites` to none if left out."""

    role: RoleName | None = None
    sites: Sites | None = None
    password: Password | None = None
    old_password: Annotated[
        str,
        Meta(
            description="who changes their own password gives the present one, too",
            max_length=PASSWORD_CHARS_MAX,
        ),
    ] = ""
    by: By = ""


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """`tenant` is null for a user of the hub as a whole, with all its tenants."""

    user: str
    tenant: str | None
    role: Role
    sites: tuple[str, ...]
    created_ns: int


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """By name."""

    users: list[UserView]
    next: str | None


class UserRemoved(msgspec.Struct, frozen=True, kw_only=True):
    user: str


async def users(context: Context, params: UsersPage) -> UserList:
    (after,) = read_cursor(params.after, tuple[str], ("",))
    known = await _in_registry(_logins(context).users.all)
    seen = [one for one in known if context.tenant in (None, one.tenant) and one.name > after]
    page = seen[: params.limit]
    following = make_cursor(page[-1].name) if len(seen) > len(page) else None
    return UserList(users=[_view(one) for one in page], next=following)


async def add(context: Context, _params: Nothing, asked: NewUser) -> UserView:
    """Make a user of the tenant that is asked of."""
    logins = _logins(context)
    made = await _change(
        logins,
        partial(
            logins.users.add, asked.user, asked.password, role=asked.role, tenant=context.tenant,
            sites=asked.sites, by=asked.by,
        ),
    )  # fmt: skip
    return _view(made)


async def change(context: Context, params: OneUser, asked: ChangeUser) -> UserView:
    """Give a user another role, other sites, another password; the sessions end with the last."""
    logins, name = _logins(context), params.user.lower()
    if asked.role is not None or asked.sites is not None:
        _check_not_own(name, asked.by)
    if asked.password is not None and name == asked.by:
        await _check_old(logins, name, asked.old_password)
    found = await _known(context, name)
    if asked.role is not None or asked.sites is not None:
        role, sites = asked.role or found.role, asked.sites or ()
        set_role = partial(
            logins.users.set_role, name, role, sites, tenant=context.tenant, by=asked.by
        )
        found = await _change(logins, set_role)
    if asked.password is not None:
        set_password = partial(
            logins.users.set_password, name, asked.password, tenant=context.tenant, by=asked.by
        )
        found = await _change(logins, set_password)
    return _view(found)


async def remove(context: Context, params: OneUser, asked: Who) -> UserRemoved:
    """Remove a user, whose sessions end."""
    logins, name = _logins(context), params.user.lower()
    _check_not_own(name, asked.by)
    await _change(logins, partial(logins.users.remove, name, tenant=context.tenant, by=asked.by))
    return UserRemoved(user=name)


def _check_not_own(name: str, by: str) -> None:
    """Raise ApiError for what would leave nobody: there is always the admin who asks."""
    if name == by:
        raise ApiError(
            409, "that is you", field="user",
            remedy="let another admin do it, or `hubd users` on the hub's machine",
        )  # fmt: skip


async def _check_old(logins: Logins, name: str, password: str) -> None:
    """Raise ApiError unless it is theirs: who finds a page open may not take the account over."""
    if not password:
        raise ApiError(
            400, "your own password is changed with the present one", field="old_password",
            remedy="give it, too; `hubd users password` on the hub's machine needs none",
        )  # fmt: skip
    await logins.check_own(name, password)


async def _known(context: Context, name: str) -> User:
    for one in await _in_registry(_logins(context).users.all):
        if one.name == name and context.tenant in (None, one.tenant):
            return one
    raise _no_such_user(name)


async def _change(logins: Logins, change: Callable[[], T]) -> T:
    done = await _in_registry(change)
    await logins.refresh()
    return done


async def _in_registry(ask: Callable[[], T]) -> T:
    try:
        return await in_thread(ask)
    except UserUnknown as error:
        raise _no_such_user(error.user) from error
    except UserRefused as error:
        raise ApiError(409, str(error), field="user", remedy="nothing was changed") from error
    except HubError as error:
        raise ApiError(503, str(error), remedy="try again") from error


def _logins(context: Context) -> Logins:
    if context.logins is None:
        raise ApiError(503, "this hub has no registry open", remedy="see the hub's log")
    return context.logins


def _no_such_user(name: str) -> ApiError:
    return ApiError(
        404,
        f"no user {name!r}",
        field="user",
        remedy="`hubd users list`, or GET /api/v1/users, lists them",
    )


def _view(user: User) -> UserView:
    return UserView(
        user=user.name, tenant=user.tenant, role=user.role, sites=user.sites,
        created_ns=user.created_ns,
    )  # fmt: skip
