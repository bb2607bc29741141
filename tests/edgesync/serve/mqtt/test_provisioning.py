"""Devices that make themselves credentials, at the doors for MQTT and HTTP."""

import hashlib
import json
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edgesync.demo.site import free_ports
from edgesync.serve.device_http.door import device_http_server
from edgesync.serve.devices import credentials, guesses, provisioning
from edgesync.serve.devices.credentials import (
    PROVISIONED_FILE,
    PROVISIONED_MAX,
    CredentialsFile,
)
from edgesync.serve.devices.provisioning import Provisioning, as_toml, read_request
from edgesync.serve.devices.told import set_tokens
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt import server as server_module
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Puback,
    Publish,
    Reason,
    Suback,
    Subscribe,
    Will,
)
from tests.edgesync.serve.mqtt.door import DEVICES, Door, RawClient, open_door
from tests.edgesync.serve.mqtt.test_door import stored, telemetry, until_closed
from tests.sites import until

pytestmark = pytest.mark.feature("S29")

PROVISION = """
[[provision]]
key = "scales"
secret = "scales-secret"
max = 3

[[provision]]
key = "pumps"
secret = "pumps-secret"
names = ["Pump 8", "Pump 9"]
gateway = true
"""
SCALES = {"provisionDeviceKey": "scales", "provisionDeviceSecret": "scales-secret"}
PUMPS = {"provisionDeviceKey": "pumps", "provisionDeviceSecret": "pumps-secret"}
RESPONSE = "/provision/response"
LEVELS = pytest.mark.parametrize("level", [V311, V5])


@asynccontextmanager
async def opened(folder: Path, devices: str = DEVICES + PROVISION) -> AsyncIterator[Door]:
    async with open_door(folder, devices=devices) as door:
        yield door


@asynccontextmanager
async def provisioner(door: Door, level: int = V311, **connect: Any) -> AsyncIterator[RawClient]:
    connect = {"username": "provision", **connect}
    async with door.client(level, token=connect["username"], **connect) as client:
        asked = Subscribe(packet_id=1, filters=(Filter(RESPONSE, 1),))
        assert await client.ask(asked) == Suback(packet_id=1, reasons=(1,))
        yield client


async def asked(client: RawClient, request: Mapping[str, Any] | bytes) -> Any:
    """Ask with QoS 1; returns the answer, which comes behind the acknowledgement."""
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    await client.say(Publish(topic="/provision/request", payload=raw, qos=1, packet_id=7))
    assert await client.hear() == Puback(packet_id=7)
    answer = await client.hear()
    assert isinstance(answer, Publish), answer
    assert answer.topic == RESPONSE
    await client.say(Puback(packet_id=answer.packet_id))
    return json.loads(answer.payload)


async def once(door: Door, request: Mapping[str, Any] | bytes) -> Any:
    async with provisioner(door) as client:
        return await asked(client, request)


def entries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(path_of(folder).read_text()).get("device", [])
    return found


def asked_path(folder: Path) -> Path:
    return path_of(folder).with_suffix(".asked")


def path_of(folder: Path) -> Path:
    return folder / "data" / PROVISIONED_FILE


@LEVELS
@pytest.mark.parametrize("connect", [{}, {"username": None, "client_id": "provision"}])
async def test_a_device_is_given_a_token_and_comes_in_with_it(
    tmp_path: Path, level: int, connect: dict[str, Any]
) -> None:
    async with opened(tmp_path) as door:
        async with provisioner(door, level, **connect) as client:
            answer = await asked(client, {**SCALES, "deviceName": "Scale 8"})
        assert answer["status"] == "SUCCESS"
        assert answer["credentialsType"] == "ACCESS_TOKEN"
        token = answer["credentialsValue"]
        async with door.client(level, token=token) as client:
            assert await client.ask(telemetry({"w": 1})) == Puback(packet_id=1)
        assert door.values() == {("Scale 8", "w"): 1}
    assert entries(tmp_path) == [{"name": "Scale 8", "token": token, "provisioned_by": "scales"}]
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    async with opened(tmp_path) as door, door.client(token=token) as client:
        assert await client.ask(telemetry({"w": 2})) == Puback(packet_id=1)


async def test_a_device_may_choose_its_credentials_and_ask_for_them_again(tmp_path: Path) -> None:
    chosen = {**SCALES, "deviceName": "Scale 8", "token": "CHOSEN_TOKEN"}
    basic = {
        **SCALES, "credentialsType": "MQTT_BASIC", "clientId": "p8", "username": "pump8",
        "password": "secret",
    }  # fmt: skip
    async with opened(tmp_path) as door:
        for _ in range(2):
            assert (await once(door, chosen))["credentialsValue"] == "CHOSEN_TOKEN"
            assert (await once(door, basic))["credentialsValue"] == {
                "clientId": "p8", "userName": "pump8", "password": "secret",
            }  # fmt: skip
        made = await once(door, {**SCALES, "credentialsType": "MQTT_BASIC"})
        value = made["credentialsValue"]
        for connect in (
            {"client_id": "p8", "username": "pump8", "password": b"secret"},
            {"username": value["userName"], "password": value["password"].encode()},
        ):
            async with door.client(token="", **connect) as client:
                await client.ask(telemetry({"w": 1}))
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({**SCALES, "provisionDeviceSecret": "wrong-secret"}, "NOT_FOUND", "no provision key"),
        ({**SCALES, "provisionDeviceKey": "nobody"}, "NOT_FOUND", "no provision key"),
        ({}, "NOT_FOUND", "no provision key"),
        (b"{", "FAILURE", "payload: is not JSON"),
        (b"[1]", "FAILURE", "payload: is no object"),
        ({**SCALES, "deviceName": "Scale"}, "FAILURE", "deviceName: there is a 'Scale'"),
        ({**SCALES, "deviceName": "meter0"}, "FAILURE", "deviceName: there is a 'meter0'"),
        ({**SCALES, "deviceName": "a\nb"}, "FAILURE", "deviceName: is no text"),
        ({**SCALES, "deviceName": "\ud800"}, "FAILURE", "deviceName: is no text"),
        ({**SCALES, "deviceName": ["a"]}, "FAILURE", "deviceName: is no text"),
        ({**SCALES, "token": "short"}, "FAILURE", "token: has less than 8"),
        ({**SCALES, "token": "SCALE_TOKEN"}, "FAILURE", "token: is in use"),
        ({**SCALES, "token": "pump-user"}, "FAILURE", "token: is in use"),
        ({**SCALES, "token": "provision"}, "FAILURE", "token: is in use"),
        ({**SCALES, "gateway": True}, "FAILURE", "gateway: this provision key makes no"),
        ({**SCALES, "gateway": "yes"}, "FAILURE", "gateway: is neither"),
        ({**SCALES, "credentialsType": "X509_CERTIFICATE"}, "FAILURE", "hash: is no text"),
        ({**SCALES, "credentialsType": "LWM2M_CREDENTIALS"}, "FAILURE", "credentialsType: 'LWM2M"),
        ({**PUMPS, "deviceName": "Pump 7"}, "FAILURE", "deviceName: this provision key is for"),
        (PUMPS, "FAILURE", "deviceName: this provision key is for"),
        (
            {**SCALES, "credentialsType": "MQTT_BASIC", "username": "SCALE_TOKEN"},
            "FAILURE", "username: is in use",
        ),
    ],
)  # fmt: skip
async def test_who_may_not_is_told_why_and_nothing_is_stored(
    tmp_path: Path, request_: Any, status: str, said: str
) -> None:
    devices = DEVICES.replace('username = "pump"', 'username = "pump-user"') + PROVISION
    modbus = [{"name": "meter0", "host": "127.0.0.1", "profile": "edgesync-sim-meter"}]
    async with open_door(tmp_path, devices=devices, modbus=modbus) as door:
        answer = await once(door, request_)
        assert answer["status"] == status
        assert answer["errorMsg"].startswith(said), answer
        assert "credentialsValue" not in answer
        assert door.server.status().refusals[-1].device == "provision"
        assert stored(door, "provision") == []
    assert not path_of(tmp_path).exists()


async def test_names_that_are_listed_are_given_once_also_as_gateways(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        answer = await once(door, {**PUMPS, "deviceName": "Pump 8", "gateway": True})
        async with door.client(token=answer["credentialsValue"]) as client:
            await client.ask(telemetry({"A": [{"w": 1}]}, topic="v1/gateway/telemetry"))
        assert door.values() == {("A", "w"): 1}
        again = await once(door, {**PUMPS, "deviceName": "Pump 8"})
        assert again["status"] == "FAILURE"
        assert "delete its entry" in again["errorMsg"]


async def test_a_key_makes_as_many_as_it_may(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        found = [await once(door, SCALES) for _ in range(4)]
        assert [one["status"] for one in found] == ["SUCCESS"] * 3 + ["FAILURE"]
        assert "has made 3 devices" in found[3]["errorMsg"]
        assert (await once(door, {**PUMPS, "deviceName": "Pump 9"}))["status"] == "SUCCESS"
    assert len(entries(tmp_path)) == 4


async def test_an_answer_that_was_lost_is_given_again_until_it_was_used(tmp_path: Path) -> None:
    request = {**SCALES, "deviceName": "Scale 8"}
    async with opened(tmp_path) as door:
        first = await once(door, request)
        assert await once(door, request) == first
        assert (await once(door, {**request, "gateway": False}))["status"] == "FAILURE"
        async with door.client(token=first["credentialsValue"]):
            pass
        assert (await once(door, request))["status"] == "FAILURE"


async def test_an_answer_that_was_lost_in_a_kill_is_given_again_until_it_was_used(
    tmp_path: Path,
) -> None:
    """Or the device would stay without: what it was given was made up, and nobody told it."""
    request = {**SCALES, "deviceName": "Scale 8"}
    async with opened(tmp_path) as door:
        first = await once(door, request)
    async with opened(tmp_path) as door:
        assert await once(door, request) == first
        assert (await once(door, {**request, "gateway": False}))["status"] == "FAILURE"
        async with door.client(token=first["credentialsValue"]):
            assert (await once(door, request))["status"] == "FAILURE"
            await until(lambda: asked_path(tmp_path).read_bytes() == b"{}")
    async with opened(tmp_path) as door:
        assert (await once(door, request))["status"] == "FAILURE"


async def test_an_answer_is_not_given_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "REPEAT_S", 0.0)
    request = {**SCALES, "deviceName": "Scale 8"}
    async with opened(tmp_path) as door:
        assert (await once(door, request))["status"] == "SUCCESS"
        assert (await once(door, request))["status"] == "FAILURE"


async def test_a_device_is_told_when_its_credentials_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer and no acknowledgement before; what could not be written was not given."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with opened(tmp_path) as door:
        with monkeypatch.context() as patch:
            patch.setattr(provisioning, "replace_file", full)
            answer = await once(door, {**SCALES, "token": "CHOSEN_TOKEN"})
        assert answer == {
            "status": "FAILURE", "errorMsg": "cannot be stored at this edge; ask again later",
        }  # fmt: skip
        async with door.stranger(V311) as client:
            refused = await client.ask(Connect(level=V311, username="CHOSEN_TOKEN"))
            assert isinstance(refused, Connack)
            assert refused.reason
        assert (await once(door, {**SCALES, "token": "CHOSEN_TOKEN"}))["status"] == "SUCCESS"


async def test_a_damaged_file_is_not_written_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        assert (await once(door, {**SCALES, "token": "CHOSEN_TOKEN"}))["status"] == "SUCCESS"
        damaged = path_of(tmp_path).read_text() + "[[dev"
        path_of(tmp_path).write_text(damaged)
        assert (await once(door, SCALES))["status"] == "FAILURE"
        assert path_of(tmp_path).read_text() == damaged
        async with door.client(token="CHOSEN_TOKEN"):  # those that were known still are
            pass


async def test_a_device_whose_entry_is_deleted_is_sent_away(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await once(door, {**SCALES, "token": "CHOSEN_TOKEN"})
        async with door.client(token="CHOSEN_TOKEN") as client:
            path_of(tmp_path).unlink()
            assert await until_closed(client) == []


async def test_who_comes_to_be_provisioned_may_do_nothing_else(tmp_path: Path) -> None:
    will = Will(topic="/provision/request", payload=json.dumps(SCALES).encode())
    async with opened(tmp_path) as door:
        async with provisioner(door, V5, will=will) as client:
            await client.say(telemetry({"a": 1}))
            refused = await client.hear()
            assert isinstance(refused, Puback)
            assert refused.reason == Reason.NOT_AUTHORIZED
            filters = (Filter("v1/devices/me/attributes", 1), Filter("#", 1))
            answer = await client.ask(Subscribe(packet_id=2, filters=filters))
            assert isinstance(answer, Suback)
            assert min(answer.reasons) >= 0x80
        async with provisioner(door) as client:
            await client.say(telemetry({"a": 1}))
            assert await until_closed(client) == []
        async with door.client(V5) as client:  # a device has its credentials
            await client.say(telemetry(SCALES, topic="/provision/request"))
            refused = await client.hear()
            assert isinstance(refused, Puback)
            assert refused.reason == Reason.NOT_AUTHORIZED
        assert door.values() == {}
        assert door.server.status().sessions <= 1
    assert not path_of(tmp_path).exists()


async def test_who_comes_to_be_provisioned_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as door:
        async with provisioner(door, V5, client_id="same") as client:
            async with provisioner(door, V5, client_id="same") as other:
                assert (await asked(other, SCALES))["status"] == "SUCCESS"
            assert (await asked(client, SCALES))["status"] == "SUCCESS"  # not taken over
            for _ in range(server_module.PROVISION_REQUESTS_MAX - 1):
                await asked(client, b"{")
            await client.say(Publish(topic="/provision/request", payload=b"{", qos=1, packet_id=9))
            (goodbye,) = await until_closed(client)
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.QUOTA_EXCEEDED
        monkeypatch.setattr(server_module, "PROVISION_S", 0.0)
        async with door.stranger(V5) as client:
            await client.ask(Connect(level=V5, username="provision"))
            (goodbye,) = await until_closed(client)
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.NOT_AUTHORIZED


async def test_without_a_provision_key_nobody_is_let_in(tmp_path: Path) -> None:
    async with opened(tmp_path, DEVICES) as door, door.stranger(V311) as client:
        answer = await client.ask(Connect(level=V311, username="provision"))
        assert isinstance(answer, Connack)
        assert answer.reason == 5


async def posted(port: int, body: Mapping[str, Any] | bytes) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"POST /api/v1/provision HTTP/1.1\r\nHost: a\r\nContent-Length: {len(raw)}\r\n\r\n"
        await stream.send_all(head.encode() + raw)
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2].strip():
            answer += await stream.receive_some()
        first, _, text = answer.partition(b"\r\n\r\n")
        return int(first.split()[1]), json.loads(text)


async def test_both_doors_know_who_was_provisioned_at_either(tmp_path: Path) -> None:
    devices, (port,) = DEVICES + PROVISION, free_ports(1)
    async with (
        open_door(tmp_path, devices=devices, device_http={"port": port}) as door,
        trio.open_nursery() as nursery,
    ):
        node = door.node
        server = device_http_server(
            node.settings, tmp_path, node, wall_ns=node.wall_ns, entities=lambda: node.entities
        )
        await nursery.start(server.serve)
        status, answer = await posted(port, {**SCALES, "deviceName": "Scale 8"})
        assert (status, answer["status"]) == (200, "SUCCESS")
        async with door.client(token=answer["credentialsValue"]) as client:
            await client.ask(telemetry({"w": 1}))
        assert door.values() == {("Scale 8", "w"): 1}
        status, answer = await posted(port, {**SCALES, "provisionDeviceSecret": "wrong-one"})
        assert (status, answer["status"]) == (200, "NOT_FOUND")
        assert (await posted(port, b"x" * 10_000))[0] == 413
        nursery.cancel_scope.cancel()


async def told(door: Provisioning, request: Mapping[str, Any], address: str) -> str:
    answer, problem = await door.answer(json.dumps(request).encode(), address)
    status: str = json.loads(answer)["status"]
    return problem if status == "FAILURE" else status


async def test_who_guesses_is_held_up_and_a_device_that_errs_is_not(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Different guesses of a network count; for whoever has the secret there, too, a while."""
    path = tmp_path / "mqtt-devices.toml"
    path.write_text(DEVICES + PROVISION)
    door = Provisioning(CredentialsFile(path, tmp_path))
    wrong = {**SCALES, "provisionDeviceSecret": "wrong"}
    for number in range(200):
        assert await told(door, {**wrong, "deviceName": f"S{number}"}, "192.0.2.1") == "NOT_FOUND"
    assert await told(door, {**SCALES, "deviceName": "S1"}, "192.0.2.1") == "SUCCESS"

    tried = [{**SCALES, "provisionDeviceSecret": f"guess {number}"} for number in range(20)]
    statuses = [await told(door, one, f"2001:db8::{n:x}") for n, one in enumerate(tried)]
    assert statuses[: provisioning.GUESSES_MAX] == ["NOT_FOUND"] * provisioning.GUESSES_MAX
    held = "too many wrong provision keys and secrets from this address; ask again in 60 s"
    assert statuses[provisioning.GUESSES_MAX :] == [held] * 10
    assert await told(door, {**SCALES, "deviceName": "S2"}, "2001:db8::ffff") == held
    assert await told(door, {**SCALES, "deviceName": "S2"}, "2001:db8:0:1::1") == "SUCCESS"
    lines = [one.getMessage() for one in caplog.records if "too many wrong" in one.getMessage()]
    assert len(lines) == 1
    assert "guess" not in lines[0]

    mock_clock.jump(guesses.WINDOW_S)
    assert await told(door, {**SCALES, "deviceName": "S3"}, "2001:db8::ffff") == "SUCCESS"


async def test_either_door_holds_up_who_guesses_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "GUESSES_MAX", 1)
    devices, (port,) = DEVICES + PROVISION, free_ports(1)
    wrong = {**SCALES, "provisionDeviceSecret": "wrong"}
    async with (
        open_door(tmp_path, devices=devices, device_http={"port": port}) as door,
        trio.open_nursery() as nursery,
    ):
        node = door.node
        server = device_http_server(
            node.settings, tmp_path, node, wall_ns=node.wall_ns, entities=lambda: node.entities
        )
        await nursery.start(server.serve)
        assert (await posted(port, wrong))[1]["status"] == "NOT_FOUND"
        assert "too many" in (await posted(port, SCALES))[1]["errorMsg"]
        assert (await once(door, wrong))["status"] == "NOT_FOUND"
        assert "too many" in (await once(door, SCALES))["errorMsg"]
        for held in (door.server._provisioning, server._provisioning):
            assert list(held.guesses._failed._failed) == ["127.0.0.1"]
        nursery.cancel_scope.cancel()


async def test_a_file_that_nobody_could_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mqtt-devices.toml"
    path.write_text(DEVICES + PROVISION)
    door = Provisioning(CredentialsFile(path, tmp_path))
    monkeypatch.setattr(provisioning, "FILE_BYTES_MAX", 250)
    assert await told(door, {**SCALES, "deviceName": "S1"}, "::1") == "SUCCESS"
    before = (tmp_path / PROVISIONED_FILE).read_text()
    assert "no room" in await told(door, {**SCALES, "deviceName": "S2" * 50}, "::1")
    assert (tmp_path / PROVISIONED_FILE).read_text() == before


@pytest.mark.parametrize("name", ['a"b', "a\\b", "Ä€😀", "'", "[[device]]", "a = 1"])
def test_names_are_written_as_they_are(name: str) -> None:
    request = read_request(json.dumps({"deviceName": name, "token": "x" * 8}).encode())
    made = provisioning._made(request, request.name)
    assert tomllib.loads(as_toml([made]).decode())["device"][0]["name"] == name


def test_a_file_of_as_many_as_there_may_be_is_read(tmp_path: Path) -> None:
    request = read_request(json.dumps({"deviceName": "x" * 255}).encode())
    made = provisioning._made(request, request.name)
    size = len(as_toml([made] * PROVISIONED_MAX))
    assert size < 4 << 20


def test_a_request_is_bounded() -> None:
    with pytest.raises(BadPayload):
        read_request(json.dumps({"password": "x" * 300, "credentialsType": "MQTT_BASIC"}).encode())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Reads of files of devices; True for those that hold up the whole edge."""
    found: list[bool] = []
    read_devices = credentials.read_devices

    def counted(path: Path) -> credentials.DevicesFile:
        found.append(trio.lowlevel.in_trio_run())
        return read_devices(path)

    monkeypatch.setattr(credentials, "read_devices", counted)
    return found


async def test_a_device_that_is_provisioned_costs_no_read_of_all_others(
    tmp_path: Path, reads: list[bool]
) -> None:
    """Or each of many devices would hold up the whole edge for longer than the one before."""
    async with opened(tmp_path) as door:
        reads.clear()
        async with provisioner(door) as client:
            answers = [await asked(client, SCALES) for _ in range(3)]
        for answer in answers:
            async with door.client(token=answer["credentialsValue"]) as client:
                assert await client.ask(telemetry({"w": 1})) == Puback(packet_id=1)
        assert reads
        assert reads.count(True) == 0
        file = CredentialsFile(tmp_path / "mqtt-devices.toml", tmp_path / "data")
        assert door.server.credentials.names == file.current.names
        assert door.server.credentials.devices == file.current.devices


async def test_a_token_of_the_hub_is_read_beside_the_edge(
    tmp_path: Path, reads: list[bool]
) -> None:
    async with opened(tmp_path) as door:
        reads.clear()
        set_tokens(tmp_path / "data", {"Scale 9": hashlib.sha256(b"of the hub").hexdigest()})
        await until(lambda: door.server.credentials.of_token("of the hub") is not None)
        assert reads
        assert reads.count(True) == 0


async def test_who_is_revoked_just_before_another_is_provisioned_is_sent_away(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as door, door.client(V5) as client, provisioner(door) as other:
        (tmp_path / "mqtt-devices.toml").write_text(PROVISION)
        assert (await asked(other, SCALES))["status"] == "SUCCESS"
        (goodbye,) = await until_closed(client)
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason == Reason.NOT_AUTHORIZED


async def test_what_the_files_say_by_then_counts_and_not_what_was_offered(tmp_path: Path) -> None:
    """A device that is revoked while another one is provisioned stays out."""
    path = tmp_path / "mqtt-devices.toml"
    path.write_text(DEVICES + PROVISION)
    file = CredentialsFile(path, tmp_path)
    before, stamps = file.current, file.stamps()
    path.write_text(PROVISION)
    file.offer(stamps, before)
    assert file.refresh()
    assert file.current.of_token("SCALE_TOKEN") is None
