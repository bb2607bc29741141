"""What users have changed, noted where an action is carried out, and shown to admins."""

import logging
import re
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request

from edgesync.errors import StoreVersion
from edgesync.redaction import is_secret
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.params import Cursor, EdgeName, Int64, Limit, Params, make_cursor, read_cursor
from hubd.api.rights import user_of
from hubd.errors import HubError
from hubd.owned.threads import in_thread
from hubd.registry.audit import AuditEntry

log = logging.getLogger(__name__)

NEWEST: Final = (1 << 63) - 1
# What is said beside.
UNSAID: Final = {"by", "tenant", "edge"}


class AuditPage(Params, frozen=True, kw_only=True):
    by: Annotated[str, Meta(description="name of a user", max_length=63)] = ""
    edge: EdgeName | None = None
    limit: Limit = 100
    after: Cursor | None = None


class AuditEntries(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first; a page may be empty and not the last."""

    entries: list[AuditEntry]
    next: str | None


async def entries(context: Context, params: AuditPage) -> AuditEntries:
    (before,) = read_cursor(params.after, tuple[Int64], (NEWEST,))
    if context.logins is None:
        return AuditEntries(entries=[], next=None)
    page = partial(
        context.logins.audit.page, context.tenant, by=params.by.lower(), edge=params.edge or "",
        before=before, limit=params.limit,
    )  # fmt: skip
    try:
        found, least = await in_thread(page)
    except HubError as error:
        raise ApiError(503, str(error), remedy="try again") from error
    return AuditEntries(entries=found, next=None if least is None else make_cursor(least))


async def note(context: Context, request: Request, path: str, body: Any) -> None:
    """Keep what a user has just changed by the action `path`; what tokens change is not kept."""
    user = user_of(request.scope)
    if user is None or context.logins is None:
        return
    edge = request.path_params.get("edge") or str(getattr(body, "edge", ""))
    view = context.hub.edge(edge) if edge else None
    told = {**request.path_params, **request.query_params, **msgspec.to_builtins(body)}
    shown = {name: value for name, value in told.items() if name not in UNSAID and value}
    detail = _without_secrets(shown)
    what = re.sub(r"{\w+}", "", path.removeprefix("/api/v1/").removeprefix("edges/{edge}/"))
    entry = {
        "tenant": context.tenant or (view.tenant if view else ""), "by": user.name,
        "what": re.sub("/+", "/", what).strip("/"), "edge": edge,
        "detail": msgspec.json.encode(detail).decode(),
    }  # fmt: skip
    try:
        await in_thread(partial(context.logins.audit.note, **entry))
    except (HubError, StoreVersion) as error:  # it is done, and said here at least
        log.error("audit not written: %s; %s", error, entry)


def _without_secrets(value: Any) -> Any:
    """Return what was sent without what is secret in it, however deep: the reader bounds that."""
    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in value.items() if not is_secret(name)}
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return value
