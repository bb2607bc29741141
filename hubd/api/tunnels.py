"""Tunnels to what edges can reach: opened and closed by whoever may change things."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hubd.api.context import Context
from hubd.api.errors import ApiError, no_such_edge
from hubd.api.params import Body, EdgeName, OneEdge, Params, WaitS
from hubd.errors import HubError
from hubd.tunnel.service import (
    LONGEST_S,
    HubTunnel,
    NewTunnel,
    TunnelRefused,
    Tunnels,
    TunnelView,
)

# What the audit calls whoever is no user; no user has such a name.
TOKEN: Final = "(token)"
CONSOLE: Final = "(console)"

REMEDIES: Final = {
    "": "GET /api/v1/tunnels shows those that are open",
    "edge": "GET /api/v1/edges shows which are connected",
    "host": "`[tunnel]` of its edge.toml says what may be reached from there",
    "listen": "leave it out: the hub takes an address and a port that are free",
}

# Only the route fills it in, with the name of the user who has logged in.
User = Annotated[
    str, Meta(description="leave it out: users act under their own name", max_length=0)
]


class TunnelsPage(Params, frozen=True, kw_only=True):
    edge: EdgeName | None = None


class OfTunnel(Params, frozen=True, kw_only=True):
    tunnel: Annotated[str, Meta(description="8 hex digits", pattern="^[0-9a-f]{8}$")]


class OneTunnel(OfTunnel, frozen=True, kw_only=True):
    wait_s: WaitS = 0.0


class TunnelBody(Body, frozen=True, kw_only=True):
    """Where the edge is to connect to, and for how long; it may grant less."""

    host: Annotated[
        str, Meta(description="address or name, as the edge has it", min_length=1, max_length=253)
    ]
    port: Annotated[int, Meta(description="1 to 65535", ge=1, le=65535)]
    for_s: Annotated[
        float, Meta(description=f"seconds, at most {LONGEST_S:g}", ge=1, le=LONGEST_S)
    ] = 1800.0
    listen: Annotated[str, Meta(description="a loopback address of the hub", max_length=45)] = (
        "127.0.0.1"
    )
    listen_port: Annotated[
        int, Meta(description="0: one that is free; another for the operator alone", ge=0, le=65535)
    ] = 0
    by: User = ""


class CloseBody(Body, frozen=True, kw_only=True):
    by: User = ""


class TunnelList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first, those that are over among them; a hub keeps no more than some hundred."""

    tunnels: list[TunnelView]


async def tunnels(context: Context, params: TunnelsPage) -> TunnelList:
    if params.edge is not None and context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)

    def sees(edge: str) -> bool:
        return params.edge in (None, edge) and context.hub.edge(edge) is not None

    return TunnelList(tunnels=list(_service(context).some(sees)))


async def one_tunnel(context: Context, params: OneTunnel) -> TunnelView:
    """Return a tunnel, as soon as it is over if that is waited for."""
    one = _find(context, params.tunnel)
    await one.wait_over(params.wait_s)
    return one.view()


async def open_tunnel(context: Context, params: OneEdge, asked: TunnelBody) -> TunnelView:
    return await _open(context, params, asked, asked.by or TOKEN)


async def open_at_console(context: Context, params: OneEdge, asked: TunnelBody) -> TunnelView:
    return await _open(context, params, asked, CONSOLE)


async def _open(context: Context, params: OneEdge, asked: TunnelBody, by: str) -> TunnelView:
    view = context.hub.edge(params.edge)
    if view is None:
        raise no_such_edge(params.edge)
    if asked.listen_port and context.tenant is not None:
        raise ApiError(
            403, "a port of one's choice is for the operator of the hub", field="listen_port",
            remedy="leave it out: the answer says which one it is",
        )  # fmt: skip
    new = NewTunnel(
        edge=params.edge, tenant=view.tenant, host=asked.host, port=asked.port, for_s=asked.for_s,
        by=by, listen=asked.listen, listen_port=asked.listen_port,
    )  # fmt: skip
    try:
        return await _service(context).open(new)
    except TunnelRefused as error:
        remedy = REMEDIES[error.field]
        raise ApiError(409, str(error), field=error.field, remedy=remedy) from error
    except HubError as error:
        raise ApiError(
            503, str(error), remedy="a tunnel is opened when it can be noted in the audit"
        ) from error


async def close(context: Context, params: OfTunnel, asked: CloseBody) -> TunnelView:
    return await _close(context, params, asked.by or TOKEN)


async def close_at_console(context: Context, params: OfTunnel, _asked: CloseBody) -> TunnelView:
    return await _close(context, params, CONSOLE)


async def _close(context: Context, params: OfTunnel, by: str) -> TunnelView:
    one = _find(context, params.tunnel)
    _service(context).close(one, by)
    await one.over.wait()
    return one.view()


def _find(context: Context, name: str) -> HubTunnel:
    found = _service(context).find(name, lambda edge: context.hub.edge(edge) is not None)
    if found is None:
        raise ApiError(
            404, f"no tunnel {name!r}", field="tunnel", remedy="GET /api/v1/tunnels lists them"
        )
    return found


def _service(context: Context) -> Tunnels:
    if context.tunnels is None:
        raise ApiError(503, "this hub has no link", field="", remedy="start it with `hubd run`")
    return context.tunnels
