"""Tunnels over the API: who may open them, what is asked of the edge, and what is on record."""

from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Feature,
    Hello,
    LaneOffer,
    Message,
    TunnelClose,
    TunnelCode,
    TunnelOpen,
    TunnelOpened,
)
from edgesync_transport.receiver import Session
from hubd.api import make_app
from hubd.api.context import Context
from hubd.errors import HubError
from hubd.registry import Registry, Role
from hubd.tunnel import service as service_module
from hubd.tunnel.service import Tunnels
from tests.hubd.logins import log_in, make_user
from tests.hubd.still import StillHub

pytestmark = [pytest.mark.feature("S33"), pytest.mark.slow]

BARN = "/api/v1/edges/barn/tunnels"
OFFER = LaneOffer(tail=0, trimmed=0)


class Edges:
    """A link whose edge allows port 22 and nothing else."""

    def __init__(self, tunnels: Tunnels) -> None:
        hello = Hello(
            nonce=1, incarnation=bytes(16), lanes=(OFFER, OFFER, OFFER), clock_ns=0,
            features=int(Feature.TUNNEL),
        )  # fmt: skip
        self.barn = Session(Peer(b"r", "barn"), hello, 7, 0.0)
        self.told: list[Message] = []
        self.connections = 4
        self._tunnels = tunnels

    def session(self, edge: str) -> Session | None:
        return self.barn if edge == "barn" else None

    async def tell(self, peer: Peer, message: Message) -> None:
        self.told.append(message)
        if not isinstance(message, TunnelOpen):
            return
        answer: TunnelOpened | TunnelClose = TunnelClose(
            epoch=7, tunnel=message.tunnel, stream=0, code=TunnelCode.NOT_ALLOWED, reason="no"
        )
        if message.port == 22:
            answer = TunnelOpened(
                epoch=7, tunnel=message.tunnel, for_s=600.0, connections=self.connections
            )
        # Of another edge, or another session: not believed.
        self._tunnels.hear("shop", answer)
        self._tunnels.hear(peer.edge, msgspec.structs.replace(answer, epoch=6))
        assert not self._tunnels._open[message.tunnel].answered.is_set()
        self._tunnels.hear(peer.edge, answer)


@pytest.fixture
def context(context: Context) -> Context:
    hub = context.hub
    assert isinstance(hub, StillHub)
    hub.all = [msgspec.structs.replace(one, tenant="acme", site="Hall 4") for one in hub.all]
    return context


@pytest.fixture
def edges(tunnels: Tunnels) -> Edges:
    return Edges(tunnels)


@pytest.fixture
def client(context: Context, tunnels: Tunnels, edges: Edges) -> Iterator[TestClient]:
    app = make_app(context, answers_of={"acme": context.answers}.get)
    with TestClient(app, backend="trio") as client:
        assert client.portal is not None
        running = client.portal.start_task_soon(tunnels.run, edges)
        yield client
        running.cancel()


def asked(**more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": 22, **more}


def test_a_tunnel_is_opened_shown_and_closed_and_each_is_on_record(
    client: httpx2.Client, edges: Edges, registry: Registry
) -> None:
    opened = client.post(BARN, json=asked(for_s=1200))
    assert opened.status_code == 200
    tunnel = opened.json()
    assert (tunnel["state"], tunnel["target"], tunnel["for_s"]) == ("open", "127.0.0.1:22", 600.0)
    assert tunnel["address"].startswith("127.0.0.1:")
    (wanted,) = [one for one in edges.told if isinstance(one, TunnelOpen)]
    assert (wanted.host, wanted.for_s, wanted.by) == ("127.0.0.1", 1200.0, "(token)")
    one = f"/api/v1/tunnels/{tunnel['tunnel']}"
    assert client.get(one).json()["state"] == "open"
    assert len(client.get("/api/v1/tunnels", params={"edge": "barn"}).json()["tunnels"]) == 2
    assert client.get("/api/v1/tunnels", params={"edge": "shop"}).json()["tunnels"] == []
    closed = client.post(f"{one}/close", json={}).json()
    assert (closed["state"], closed["code"], closed["address"]) == ("over", "closed", "")
    assert (
        client.get(one, params={"wait_s": 25}).json() == closed
    )  # it is over: nothing to wait for
    assert isinstance(edges.told[-1], TunnelClose)
    entries, _ = registry.audit.page("acme", before=1 << 60, limit=9)
    assert [(entry.what, entry.by, entry.edge) for entry in entries] == [
        ("tunnels/close", "(token)", "barn"), ("tunnels", "(token)", "barn"),
    ]  # fmt: skip
    details = [msgspec.json.decode(entry.detail) for entry in entries]
    assert {detail["tunnel"] for detail in details} == {tunnel["tunnel"]}
    assert (details[0]["code"], details[0]["received_bytes"]) == ("closed", 0)
    assert registry.audit.page("bolt", before=1 << 60, limit=9)[0] == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"port": 22}, 400, "host"),
        (asked(port=0), 400, "port"),
        (asked(for_s=0), 400, "for_s"),
        (asked(for_s=10**6), 400, "for_s"),
        (asked(by="somebody else"), 400, "by"),
        (asked(colour="red"), 400, "colour"),
        (asked(listen="0.0.0.0"), 409, "listen"),
        (asked(port=23), 409, "host"),
    ],
)
def test_a_mistake_is_told_with_its_field_and_leaves_nothing_open(
    client: httpx2.Client, tunnels: Tunnels, body: dict[str, Any], status: int, field: str
) -> None:
    found = client.post(BARN, json=body)
    assert (found.status_code, found.json()["field"]) == (status, field)
    assert found.json()["remedy"]
    assert tunnels._open == {}


def test_what_is_nowhere_too_much_or_without_audit_is_refused(
    client: httpx2.Client, tunnels: Tunnels, edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/api/v1/edges/nowhere/tunnels", "/api/v1/tunnels/00000000/close"):
        assert client.post(path, json=asked() if "edges" in path else {}).status_code == 404
    away = client.post("/api/v1/edges/shop/tunnels", json=asked())
    assert (away.status_code, away.json()["field"]) == (409, "edge")
    own = client.post(BARN, params={"tenant": "acme"}, json=asked(listen_port=2222))
    assert (own.status_code, own.json()["field"]) == (403, "listen_port")
    monkeypatch.setattr(service_module, "TENANT_TUNNELS_MAX", 1)
    first = client.post(BARN, json=asked()).json()
    full = client.post(BARN, json=asked())
    assert (full.status_code, "1 in all" in full.json()["error"]) == (409, True)
    client.post(f"/api/v1/tunnels/{first['tunnel']}/close", json={})
    count = len(edges.told)

    def refuse(**_entry: str) -> None:
        raise HubError("the registry is away")

    monkeypatch.setattr(tunnels, "_note_entry", refuse)
    unnoted = client.post(BARN, json=asked())
    assert (unnoted.status_code, "registry is away" in unnoted.json()["error"]) == (503, True)
    assert len(edges.told) == count  # the edge was not asked
    assert tunnels._open == {}


@pytest.mark.parametrize(("granted", "most"), [(65_535, 16), (16, 16), (0, 1)])
def test_an_edge_grants_no_more_connections_than_there_may_be(
    client: httpx2.Client, tunnels: Tunnels, edges: Edges, granted: int, most: int
) -> None:
    edges.connections = granted
    opened = client.post(BARN, json=asked()).json()
    found = tunnels.find(opened["tunnel"], lambda _edge: True)
    assert found is not None
    assert found.end is not None
    assert found.end.tunnel.connections == most


@pytest.mark.parametrize("error", [HubError("away"), OSError(28, "no room"), ValueError("a bug")])
def test_an_end_that_cannot_be_noted_ends_no_other_tunnel(
    client: httpx2.Client, tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, error: Exception,
) -> None:  # fmt: skip
    one, other = (client.post(BARN, json=asked()).json() for _ in range(2))

    def refuse(**_entry: str) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(tunnels, "_note_entry", refuse)
        closed = client.post(f"/api/v1/tunnels/{one['tunnel']}/close", json={}).json()
        assert closed["state"] == "over"
    assert "audit not written" in caplog.text
    assert client.get(f"/api/v1/tunnels/{other['tunnel']}").json()["state"] == "open"
    assert client.post(BARN, json=asked()).json()["state"] == "open"


def test_a_user_acts_under_their_own_name_and_only_an_admin_may(
    client: TestClient, registry: Registry, context: Context
) -> None:
    assert context.logins is not None
    log_in(client, make_user(registry, context.logins, "olga", Role.OPERATOR))
    assert client.post(BARN, json=asked()).status_code == 403
    log_in(client, make_user(registry, context.logins, "eve", Role.ADMIN))
    opened = client.post(BARN, json=asked()).json()
    assert opened["by"] == "eve"
    client.post(f"/api/v1/tunnels/{opened['tunnel']}/close", json={})
    entries, _ = registry.audit.page(None, by="eve", before=1 << 60, limit=9)
    assert [entry.what for entry in entries] == ["tunnels/close", "tunnels"]
