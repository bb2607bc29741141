"""Who asks, and what they may change: the one place that decides it.

A token that may write may do all that is not about users; where no token is asked for, everybody
may. A user may do what their role says, at the sites that it is for.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

from hubd.api.context import EdgeView
from hubd.api.errors import ApiError
from hubd.registry import Role, User

# In the scope of a request: whether whoever asks may write everywhere, and the user if one does.
MAY_WRITE: Final = "hubd.may_write"
USER: Final = "hubd.user"

Scope = Mapping[str, Any]


class Right(enum.Enum):
    """What an action wants of whoever does it."""

    OPERATE = enum.auto()  # at an edge: alarms, attributes, calls of devices
    WRITE = enum.auto()
    USERS = enum.auto()  # to make, change and remove users, and to see them


def user_of(scope: Scope) -> User | None:
    """Return the user who asks; None for a token, and where none is needed."""
    found: User | None = scope.get(USER)
    return found


def may(scope: Scope, right: Right, edge: EdgeView | None = None) -> bool:
    """Return whether who asks has this right, at `edge`; nobody has one before a `Guard`."""
    user = user_of(scope)
    if user is None:
        return right is not Right.USERS and bool(scope.get(MAY_WRITE))
    if right is Right.OPERATE and edge is not None:
        return user.may_operate(site_of(edge))
    return user.role is Role.ADMIN


def check_may(scope: Scope, right: Right, edge: EdgeView | None = None) -> None:
    """Raise ApiError unless who asks has this right, at `edge`."""
    if may(scope, right, edge):
        return
    user = user_of(scope)
    if user is not None:
        where = f" at {site_of(edge)}" if user.role is Role.OPERATOR and edge is not None else ""
        raise ApiError(
            403, f"{user.name} is {user.role}, who may not do that{where}", field="role",
            remedy="ask an admin: `hubd users role` gives a user another role and other sites",
        )  # fmt: skip
    if right is Right.USERS:
        raise ApiError(
            403, "users are changed by an admin who has logged in, not with a token", field="role",
            remedy="log in as one; `hubd users add NAME --role admin` makes the first",
        )  # fmt: skip
    raise ApiError(
        403, "this token may read, not write", field="Authorization",
        remedy="use a token whose SHA-256 is in api.write_token_sha256",
    )  # fmt: skip


def site_of(edge: EdgeView) -> str:
    """Return where an edge stands; one that says nothing of that is a site of its own."""
    return edge.site or edge.edge
