"""The page of an edge's rule chains: drawn with what it told, and its buttons."""

import hashlib
from collections.abc import Iterator

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from edgesync.model import Action, EventType
from edgesync.rules.read import read_chains
from hubd.api import ApiSettings, Context, make_app
from hubd.web.graph import NODE_HEIGHT, NODE_WIDTH, NODES_MAX, Graph, draw
from tests.edgesync.rules.chains import Node, Wire, exported
from tests.hubd.still import of_tenant

pytestmark = pytest.mark.feature("S18")

LOG: Node = ("action.TbLogNode", "Log", {"jsScript": "return 'x';"})
PAGE = "/edges/barn/rules"


def drawn(nodes: list[str], wires: list[Wire]) -> Graph:
    made: list[Node] = [(LOG[0], name, LOG[2]) for name in nodes]
    found = draw(read_chains(exported(made, wires), "a.json")[0])
    assert found is not None
    return found


def test_a_node_is_below_all_that_lead_to_it_and_none_covers_another() -> None:
    wires = [(0, 1, "True"), (0, 2, "False"), (1, 3, "Success"), (2, 3, "Success"),
             (0, 3, "Failure"), (0, 3, "Other")]  # fmt: skip
    graph = drawn(["a", "b", "c", "d", "alone"], wires)
    box = {one.name: one for one in graph.boxes}
    assert box["a"].y < box["b"].y == box["c"].y < box["d"].y
    assert (box["a"].is_first, box["b"].is_first) == (True, False)
    assert [line.label for line in graph.lines][-1] == "Failure, Other"
    assert len(graph.lines) == 5
    for one in graph.boxes:
        assert 0 <= one.x <= graph.width - NODE_WIDTH
        assert 0 <= one.y <= graph.height - NODE_HEIGHT
        for other in graph.boxes:
            apart = abs(one.x - other.x) >= NODE_WIDTH or abs(one.y - other.y) >= NODE_HEIGHT
            assert other is one or apart


def test_what_is_too_large_is_not_drawn() -> None:
    many = [(LOG[0], f"n{at}", LOG[2]) for at in range(NODES_MAX + 1)]
    assert draw(read_chains(exported(many), "a.json")[0]) is None
    assert draw(read_chains(exported([], first=None), "a.json")[0]) is not None


@pytest.fixture
def client(context: Context) -> Iterator[httpx2.Client]:
    with TestClient(
        make_app(of_tenant(context, "acme")), backend="trio", follow_redirects=True
    ) as client:
        assert client.portal is not None
        keys = client.portal.start_task_soon(context.answers.run)
        yield client
        keys.cancel()


def tell(context: Context, **facts: object) -> None:
    assert context.rules is not None
    body = msgspec.json.encode(facts)
    action = Action.UPDATED if "life" in facts else Action.NONE
    context.rules.reports.apply("barn", EventType.RULES, action, body, 10**18)


def test_what_runs_is_drawn_with_its_counters(context: Context, client: httpx2.Client) -> None:
    assert context.rules is not None
    digest = context.rules.bundles.assignments()["barn"].digest
    waiting = client.get(PAGE).text
    assert "which does not run there" in waiting
    assert "Save Timeseries" in waiting
    assert 'class="state warning">waiting' in waiting
    tell(context, held=digest, running=digest, bundle="basket", version=1, source="hub",
         root="Edge Root Rule Chain", chains=["Edge Root Rule Chain"])  # fmt: skip
    kept = context.rules.bundles.bundle("acme", "basket")
    (chain,) = read_chains(next(iter(kept.contents().values())), "a")
    rows = [[chain.name, one.id, one.name, one.type, 7, 0, "", 0] for one in chain.nodes]
    rows[0][4:] = [1234567, 2, "<b>bad", 10**18]
    tell(context, life=1, first=0, nodes=rows)
    page = client.get(PAGE).text
    assert 'class="state good">running' in page
    assert "messages begin here" in page
    assert page.count('class="node') == len(chain.nodes)
    assert "&lt;b&gt;bad" in page
    assert "1 234 567 · 2 failed".replace(" ", "") in page.replace("\u202f", "").replace(
        "\xa0", ""
    ).replace(" ", "")
    tell(context, life=1, changed=[[1, 8, 0, "", 0]])
    assert ">8<" in client.get(PAGE).text
    tell(context, life=2, changed=[[1, 9, 0, "", 0]])  # of a beginning that was not heard
    assert ">9<" not in client.get(PAGE).text


def test_refusals_and_chains_of_its_own_are_told(context: Context, client: httpx2.Client) -> None:
    assert context.rules is not None
    digest = context.rules.bundles.assignments()["barn"].digest
    tell(context, held=digest, source="none", refused=["a.json: <i>no worker"])
    page = client.get(PAGE).text
    assert "&lt;i&gt;no worker" in page
    assert "It does not run basket 1; everything is stored and sent" in page
    tell(context, held=digest, source="local", is_local=True, root="Mine", chains=["Mine"])
    tell(context, life=1, nodes=[["Mine", "x", "Node <x>", "action.TbLogNode", 5, 0, "", 0]])
    page = client.get(PAGE).text
    assert "count before what is assigned here" in page
    assert "Node &lt;x&gt;" in page
    assert "not known here" in page


def test_bundles_are_listed_with_where_they_run(context: Context, client: httpx2.Client) -> None:
    assert context.rules is not None
    bundles = context.rules.bundles
    page = client.get("/rules").text
    assert 'state warning">waiting' in page
    assert page.count("No edge is to run it") == 1  # of the default tenant's
    bundles.upload("acme", "basket", {"a.json": exported([LOG]).decode()})
    digest = bundles.assignments()["barn"].digest
    tell(context, held=digest, source="none", refused=["a.json: <i>no worker", "more"])
    page = client.get("/rules").text
    assert "not the newest" in page
    assert "&lt;i&gt;no worker" in page
    assert 'href="/edges/barn/rules"' in page
    bundles.unassign("acme", ["barn"])
    for tenant in ("acme", "default"):
        bundles.remove(tenant, "basket")
    assert "No bundle of rule chains is kept here" in client.get("/rules").text


def test_buttons_try_out_assign_and_unassign(context: Context, client: httpx2.Client) -> None:
    assert context.rules is not None
    bundles = context.rules.bundles
    run = {"do": "run", "bundle": "basket 1", "message": '{"t": 1}', "entity": "meter0"}
    tried = client.post(f"{PAGE}/run", data=run)
    assert tried.status_code == 200
    assert "SaveReadings" in tried.text
    assert "Nothing was stored or sent" in tried.text
    for form, told in (
        ({**run, "message": "{"}, "no JSON"),
        ({**run, "bundle": "none 1"}, "no bundle"),
        ({**run, "bundle": "basket x"}, "choose a bundle"),
        ({**run, "message": "", "entity": "nobody"}, "no readings of"),
    ):
        wrong = client.post(f"{PAGE}/run", data=form)
        assert wrong.status_code >= 400
        assert told in wrong.text, form
    client.post(PAGE, data={"do": "unassign"})
    assert "barn" not in bundles.assignments()
    assert "everything is stored and sent" in client.get(PAGE).text
    client.post(PAGE, data={"do": "assign", "bundle": "basket 1"})
    assert bundles.assignments()["barn"].version == 1


def test_who_may_only_read_tries_out_and_assigns_nothing(context: Context) -> None:
    assert context.rules is not None
    reader, writer = (hashlib.sha256(word).hexdigest() for word in (b"reader", b"writer"))
    settings = ApiSettings(
        allowed_hosts=("testserver",), token_sha256=(reader,), write_token_sha256=(writer,)
    )
    narrowed = msgspec.structs.replace(context, settings=settings)
    headers = {"Authorization": "Bearer reader"}
    with TestClient(make_app(narrowed), backend="trio", headers=headers) as client:
        assert 'value="assign"' not in client.get(PAGE).text
        for do in ("assign", "unassign"):
            assert client.post(PAGE, data={"do": do, "bundle": "basket 1"}).status_code == 403
        assert context.rules.bundles.assignments()["barn"].bundle == "basket"
        tried = client.post(f"{PAGE}/run", data={"bundle": "basket 1", "message": "{}"})
        assert "Nothing was stored or sent" in tried.text
        assert client.get(PAGE, headers={"Authorization": "Bearer other"}).status_code == 401
