"""A hub with two edges, their state made by the real projectors from real batches."""

import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
import trio
from starlette.testclient import TestClient

from edgesync._native.window import Window, pack_windows
from edgesync.model import RecordKind, series_id
from edgesync.rules.defaults import default_chain
from edgesync_transport.link import Peer
from edgesync_transport.messages import Hello, LaneOffer, TunnelCode
from edgesync_transport.receiver import Session
from edgesync_transport.tunnel.tunnel import End
from hubd.api import ApiSettings, Context, make_app
from hubd.api.context import LinkEvent
from hubd.api.logins import Logins
from hubd.cells import HubCells
from hubd.client import HubClient
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.edge_service import EdgeService
from hubd.log.memory import MemoryLog
from hubd.objects.service import ObjectService
from hubd.objects.store import Objects
from hubd.project.base import apply_entries
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.registry import Registry, open_registry
from hubd.rpc.calls import Calls, NewCall
from hubd.rpc.service import RpcService
from hubd.rules.bundles import Bundles
from hubd.rules.reports import Reports
from hubd.rules.service import RuleService
from hubd.state import State, open_state
from hubd.tunnel.service import HubTunnel, NewTunnel, Tunnels
from tests.hubd.batches import START_NS, Edge
from tests.hubd.keys import meet, open_answers
from tests.hubd.logins import logins_of
from tests.hubd.serving import serve
from tests.hubd.still import NOW_NS, StillHub, an_edge

MINUTES = 30


def a_window(minute: int) -> bytes:
    """What the edge itself makes of a minute of its meter."""
    start = START_NS + minute * 60 * 10**9
    window = Window()
    for second in range(60):
        window.add(start + second * 10**9, float(minute * 60 + second))
    return pack_windows(60 * 10**9, start, 1, [(series_id("meter0", "ActivePower"), window)])


def barn(position: int = 1) -> Edge:
    """30 minutes of two series at 1 Hz, one that changes rarely, and some events."""
    edge = Edge("barn")
    edge.declare(("meter0", "ActivePower"), "W")
    edge.declare(("meter0", "Frequency"), "Hz")
    edge.declare(("door", "IsOpen"))
    edge.declare(("door", "Note"))
    at = START_NS
    for second in range(MINUTES * 60):
        at = START_NS + second * 10**9
        edge.readings(at, {("meter0", "ActivePower"): float(second), ("meter0", "Frequency"): 50.0})
    edge.readings(at, {("door", "IsOpen"): True, ("door", "Note"): "left open"})
    edge.event(11, b'{"text": "hinge <b>squeaks</b>"}', entity="door", action=6, time_ns=START_NS)
    edge.event(
        20,
        b'{"state":"online","address":"tcp://m:502/1","invalid":["Soc"],'
        b'"reasons":{"Soc":"exception 2"}}',
        entity="meter0", time_ns=START_NS,
    )  # fmt: skip
    edge.event(20, b'{"state":"online"}', entity="pv0", time_ns=START_NS)
    edge.event(
        20, b'{"state":"offline","reason":"no answer in 1 s","changes":3}',
        entity="pv0", time_ns=START_NS + 5,
    )  # fmt: skip
    edge.event(20, b"[1]", entity="odd", time_ns=START_NS)
    for minute in range(MINUTES):
        edge.record(RecordKind.WINDOWS, a_window(minute))
    edge.event(12, b"\xff\xfe", entity="meter0", time_ns=START_NS + 10**9)
    return edge


def fill(state: State, projectors: Projectors) -> None:
    edge = barn()
    entries = [edge.entry(1), edge.refused(2, b"nonsense", "not a record"), edge.gap(3, 5, "trim")]
    for one in projectors.all:
        state.write_now(lambda c, one=one: apply_entries(one, c, entries))  # type: ignore[misc]
    for progress in projectors.progress:
        progress.position = 3


def fill_keys(cells: HubCells) -> None:
    """Two edges wrote one key, and everything of the hub's own is on disk."""
    meet(cells, ("barn", ("SET", "price", "10")), ("shop", ("SET", "price", "12")))
    cells.ask("HSET", ["basket", "apples", "3"])
    cells.commit()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Two tenants with an edge each, and an edge of the default one."""
    with contextlib.closing(open_registry(tmp_path)) as registry:
        for tenant, edge in (("acme", "barn"), ("bolt", "shop")):
            registry.tenants.add(tenant)
            registry.enrolments.invite(edge, tenant=tenant, valid_s=900)
        registry.enrolments.invite("mill", valid_s=900)
        yield registry


@pytest.fixture
def rpc(registry: Registry) -> RpcService:
    """Calls of devices: one, of acme's barn, which waits for its edge."""
    journal = Journal(registry.owned)
    calls = Calls(registry.owned, journal, clock_ns=lambda: NOW_NS, monotonic_ns=lambda: 0)
    call = NewCall(device="scale", method="tare", params=b'{"a":1}', ttl_s=60, id="basket")
    calls.send("acme", "barn", call)
    return RpcService(calls, Delivery(journal), MemoryLog(), lambda _edge: "acme")


@pytest.fixture
def rules(registry: Registry, rpc: RpcService, state: State) -> RuleService:
    """Rule chains: acme's bundle, and one of the default tenant that the operator means."""
    found = Bundles(registry.owned, clock_ns=lambda: NOW_NS)
    for tenant in ("acme", "default"):
        found.upload(tenant, "basket", {"root.json": default_chain().decode()})
    found.assign("acme", "basket", ["barn"])
    return RuleService(found, rpc.delivery, state, Reports())


@pytest.fixture
def logins(registry: Registry) -> Logins:
    """Nobody yet."""
    return logins_of(registry)


@pytest.fixture
def edge_service(registry: Registry, rpc: RpcService) -> EdgeService:
    return EdgeService(
        registry, rpc.delivery, token_maker=lambda: lambda one: f"token of {one.edge}", valid_s=900,
        clock_ns=lambda: NOW_NS,
    )  # fmt: skip


@pytest.fixture
def tunnels(registry: Registry) -> Tunnels:
    """One is over, of acme's barn; whoever wants a new one has to `run` them."""
    found = Tunnels(registry.audit.note, wall_ns=lambda: NOW_NS)
    asked = NewTunnel(edge="barn", tenant="acme", host="10.9.8.7", port=22, for_s=60, by="ana")
    hello = Hello(
        nonce=1, incarnation=bytes(16), lanes=(LaneOffer(tail=0, trimmed=0),) * 3, clock_ns=0
    )
    over = HubTunnel(0xBADCAB1E, asked, Session(Peer(b"", "barn"), hello, 1, 0.0), NOW_NS)
    over.ended = End(TunnelCode.EXPIRED, "its 60 s are over")
    over.over.set()
    found._over.append(over)
    return found


@pytest.fixture
def objects(registry: Registry, tmp_path: Path) -> ObjectService:
    """Acme's basket, for its barn, and one of the default tenant that the operator means."""
    found = Objects(registry.owned, tmp_path / "objects", clock_ns=lambda: NOW_NS)
    for tenant in ("acme", "default"):
        found.put(tenant, "basket", io.BytesIO(b"apples"))
    found.assign("acme", "basket", ["barn"])
    return ObjectService(found, clock_ns=lambda: NOW_NS)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with contextlib.closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        yield state


@pytest.fixture
def context(
    state: State, rpc: RpcService, rules: RuleService, logins: Logins, edge_service: EdgeService,
    tunnels: Tunnels,
    objects: ObjectService,
    tmp_path: Path,
) -> Iterator[Context]:  # fmt: skip
    live = Live()
    projectors = Projectors(live)
    fill(state, projectors)
    events = [
        LinkEvent(n=n, time_ns=START_NS + n, edge=("barn", "shop")[n % 2], kind="connected")
        for n in range(1, 8)
    ]
    hub = StillHub([an_edge("barn"), an_edge("shop", is_connected=False)], events)
    hub.head = 3
    with open_answers(tmp_path / "cells") as answers:
        fill_keys(answers.cells)
        yield Context(
            hub=hub,
            state=state,
            live=live,
            projectors=projectors,
            answers=answers,
            settings=ApiSettings(allowed_hosts=("testserver",)),
            version="0.1.0",
            now_ns=lambda: NOW_NS,
            rpc=rpc,
            rules=rules,
            logins=logins,
            edges=edge_service,
            tunnels=tunnels,
            objects=objects,
        )


@pytest.fixture
def client(context: Context) -> Iterator[httpx2.Client]:
    with TestClient(make_app(context), backend="trio") as client:
        assert client.portal is not None
        keys = client.portal.start_task_soon(context.answers.run)
        yield client
        keys.cancel()


@pytest.fixture
async def url(context: Context, nursery: trio.Nursery) -> str:
    """Where the same hub is served on a real socket, with its keys kept on disk."""
    await nursery.start(context.answers.run)
    return await serve(context, nursery)


@pytest.fixture
async def hub(url: str) -> AsyncIterator[HubClient]:
    async with HubClient(url) as client:
        yield client
