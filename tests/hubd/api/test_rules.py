"""Rule chains over the API: kept, refused with all that is wrong, assigned."""

import json
from typing import Any

import httpx2
import pytest

from edgesync.rules.defaults import default_chain
from tests.edgesync.rules.chains import Node, exported

pytestmark = pytest.mark.feature("S18")

MAIL: Node = ("mail.TbSendEmailNode", "Mail", {})


def test_a_bundle_is_kept_and_assigned(client: httpx2.Client) -> None:
    chain: Any = json.loads(default_chain())
    made = client.post("/api/v1/rules", json={"name": "cold", "files": {"a": chain}})
    assert (made.status_code, made.json()["version"], made.json()["edges"]) == (200, 1, [])
    text = {"name": "cold", "files": {"a": exported([MAIL], name="New").decode()}}
    refused = client.post("/api/v1/rules", json=text)
    assert refused.status_code == 422
    assert "'Mail' is a mail.TbSendEmailNode" in refused.json()["error"]
    assigned = client.post("/api/v1/rules/cold/assign", json={"edges": ["mill"]})
    assert assigned.json()["edges"] == ["mill"]
    found = client.get("/api/v1/rules/cold").json()
    assert found["bundle"]["edges"] == ["mill"]
    assert json.loads(found["files"]["a"]) == chain
    names = [one["name"] for one in client.get("/api/v1/rules").json()["bundles"]]
    assert names == ["basket", "basket", "cold"]  # acme's, too: the operator asks
    gone = client.post("/api/v1/rules/unassign", json={"edges": ["mill"]})
    assert gone.json()["unassigned"] == ["mill"]


@pytest.mark.parametrize(("path", "body", "status", "field"), [
    ("/rules", {"name": "a b", "files": {}}, 400, "name"),
    ("/rules", {"name": "a", "files": {}}, 422, "files"),
    ("/rules", {"name": "a", "files": {"x": "[1]"}}, 422, "(file)"),
    ("/rules", {"name": "a", "files": {"x": "\ud800"}}, 400, "body"),
    ("/rules/none/assign", {"edges": ["mill"]}, 404, "bundle"),
    ("/rules/basket/assign", {"edges": []}, 400, "edges"),
    ("/rules/basket/assign", {"edges": ["mill", "shop"]}, 404, "edge"),
    ("/rules/basket/assign", {"edges": ["mill"], "version": 9}, 404, "bundle"),
    ("/rules/unassign", {"edges": ["shop"]}, 404, "edge"),
])  # fmt: skip
def test_mistakes_name_the_field(
    client: httpx2.Client, path: str, body: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post(f"/api/v1{path}", content=json.dumps(body),
                         headers={"Content-Type": "application/json"})  # fmt: skip
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


WARM: Node = ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.ActivePower > 5;"})
LIMIT: Node = ("metadata.TbGetAttributesNode", "Limit", {"sharedAttributeNames": ["limit"],
                                                         "fetchTo": "DATA"})  # fmt: skip
SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
RUN = "/api/v1/edges/barn/rules/run"


def test_a_bundle_is_tried_out_with_what_the_hub_knows(client: httpx2.Client) -> None:
    nodes = [WARM, LIMIT, SAVE]
    chain = exported(nodes, [(0, 1, "True"), (1, 2, "Success")], name="Root").decode()
    client.post("/api/v1/rules", json={"name": "warm", "files": {"a": chain}})
    given = {"entity": "meter0", "set": {"limit": 9}, "scope": "shared"}
    assert client.post("/api/v1/edges/barn/attributes", json=given).status_code == 200
    events = client.get("/api/v1/edges/barn").json()["state"]["events"]
    # With the newest readings of the entity, and its attributes.
    found = client.post(RUN, json={"bundle": "warm", "entity": "meter0"}).json()
    assert found["message"] == {"ActivePower": 1799.0, "Frequency": 50.0}
    assert [one["node"] for one in found["visits"]] == ["Warm", "Limit", "Save"]
    assert found["visits"][2]["message"]["data"]["shared_limit"] == 9
    (saved,) = found["effects"]
    assert saved["effect"] == "SaveReadings"
    # With a message of one's own.
    cold = client.post(RUN, json={"bundle": "warm", "message": {"ActivePower": 1}}).json()
    assert [(one["node"], one["outs"][0]["relation"]) for one in cold["visits"]] == [
        ("Warm", "False")
    ]
    assert cold["effects"] == []
    assert client.get("/api/v1/edges/barn").json()["state"]["events"] == events


@pytest.mark.parametrize(("body", "status", "field"), [
    ({"bundle": "none", "message": 1}, 404, "bundle"),
    ({"bundle": "basket", "entity": "nobody"}, 404, "entity"),
    ({"bundle": "basket", "message": 1, "metadata": {"a": 1}}, 400, "metadata"),
    ({"bundle": "basket", "message": 1, "entity": ""}, 400, "entity"),
])  # fmt: skip
def test_mistakes_of_a_dry_run_name_the_field(
    client: httpx2.Client, body: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post(RUN, json=body)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
