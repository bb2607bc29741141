"""tb-mqtt-client, as devices use it: thingsboard.py PORT NAME. It prints what came, as JSON."""

import hashlib
import json
import os
import pathlib
import queue
import sys
import tempfile
import time
from typing import Any

from tb_device_mqtt import TBDeviceMqttClient
from tb_gateway_mqtt import TBGatewayMqttClient

PORT = int(sys.argv[1])
PATIENCE_S = 60


def device(token: str = "SCALE_TOKEN", kind: Any = TBDeviceMqttClient) -> Any:
    client = kind("127.0.0.1", PORT, token)
    client.connect()
    until(client.is_connected)
    return client


def until(is_so: Any) -> None:
    for _ in range(PATIENCE_S * 20):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it never became so")


def told(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def telemetry() -> None:
    client = device()
    assert client.send_telemetry({"weight": 412.5, "on": True}).get() == 0
    at = [{"ts": 1_700_000_000_000 + number, "values": {"n": number}} for number in range(500)]
    assert client.send_telemetry(at).get() == 0
    # Larger than a packet: the client splits it by what it is told of limits.
    assert client.send_telemetry({f"key{number}": "x" * 100 for number in range(900)}).get() == 0
    told(limit=client.max_payload_size)
    client.disconnect()


def attributes() -> None:
    came: queue.Queue[Any] = queue.Queue()
    client = device()
    assert client.send_attributes({"model": "S7", "nested": {"a": [1, 2]}}).get() == 0
    client.subscribe_to_all_attributes(lambda content, *_: came.put(content))
    client.request_attributes(
        client_keys=["model", "nested"],
        shared_keys=["limit"],
        callback=lambda content, *_: came.put(content),
    )
    told(asked=came.get(timeout=PATIENCE_S))
    while (pushed := came.get(timeout=PATIENCE_S)).get("limit") != 950:
        pass
    told(pushed=pushed)
    client.disconnect()


def rpc() -> None:
    answered: queue.Queue[Any] = queue.Queue()
    calls: queue.Queue[Any] = queue.Queue()
    client = device()

    def called(number: int, body: Any) -> None:
        client.send_rpc_reply(number, {"heard": body["params"]}, quality_of_service=1)
        calls.put(body)

    client.set_server_side_rpc_request_handler(called)
    client.send_rpc_call("nobody", {"a": 1}, lambda _id, answer, _error: answered.put(answer))
    told(answer=answered.get(timeout=PATIENCE_S))
    told(call=calls.get(timeout=PATIENCE_S))
    time.sleep(1)  # the answer is on its way
    client.disconnect()


def gateway() -> None:
    came: queue.Queue[Any] = queue.Queue()
    calls: queue.Queue[Any] = queue.Queue()
    client = device("GATE_TOKEN", TBGatewayMqttClient)
    client.gw_connect_device("Pen A", "scale")
    client.gw_set_server_side_rpc_request_handler(
        lambda _gateway, body: (
            client.gw_send_rpc_reply(body["device"], body["data"]["id"], {"ok": 1}, 1),
            calls.put(body),
        )
    )
    weight = {"ts": 1_700_000_000_000, "values": {"w": 7}}
    assert client.gw_send_telemetry("Pen A", weight).get() == 0
    assert client.gw_send_attributes("Pen A", {"floor": "slatted"}).get() == 0
    client.gw_request_client_attributes("Pen A", ["floor"], lambda answer, _error: came.put(answer))
    told(asked=came.get(timeout=PATIENCE_S))
    told(call=calls.get(timeout=PATIENCE_S))
    time.sleep(1)
    client.gw_disconnect_device("Pen A")
    client.disconnect()


def claim() -> None:
    client = device("GATE_TOKEN", TBGatewayMqttClient)
    assert client.claim("secret", 600_000).get() == 0
    assert client.gw_claim("Pen B", "other", 600_000).get() == 0
    client.disconnect()


def firmware() -> None:
    os.chdir(tempfile.mkdtemp())  # it writes what it has received into a file of its title
    for chunk_size in (0, 1000):  # whole, as is its default, and by chunks
        client = TBDeviceMqttClient("127.0.0.1", PORT, "SCALE_TOKEN", chunk_size=chunk_size)
        client.connect()
        until(client.is_connected)
        client.get_firmware_update()
        until(lambda: client.current_firmware_info["fw_state"] == "UPDATED")  # noqa: B023
        data = pathlib.Path("scale").read_bytes()
        version = client.current_firmware_info["current_fw_version"]
        told(sha256=hashlib.sha256(data).hexdigest(), version=version)
        time.sleep(1)
        client.disconnect()


def provision() -> None:
    shown = {
        "provision_device_key": "scales",
        "provision_device_secret": "scales-secret",
        "port": PORT,
    }
    made = TBDeviceMqttClient.provision("127.0.0.1", device_name="Scale 8", **shown)
    basic = TBDeviceMqttClient.provision(
        "127.0.0.1",
        device_name="Scale 9",
        client_id="s9",
        username="scale9",
        password="secret",
        **shown,
    )
    again = TBDeviceMqttClient.provision("127.0.0.1", device_name="Scale", **shown)
    told(made=made, basic=basic, again=again)
    client = device(made["credentialsValue"])
    assert client.send_telemetry({"weight": 8}).get() == 0
    client.disconnect()


globals()[sys.argv[2]]()
