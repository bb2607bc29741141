"""Firmware for devices: read by chunks, never of two files, over MQTT and HTTP."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync.serve.devices import package_folder as packages_module
from edgesync.serve.devices.package import NoPackage, Package
from edgesync.serve.devices.package_folder import CHUNK_BYTES_MAX, PackageFolder
from edgesync.serve.mqtt import chunks as chunks_module
from edgesync.serve.mqtt.packets import V5, V311, Disconnect, Puback, Publish, Reason
from tests.edgesync.serve.device_http.test_door import SCALE
from tests.edgesync.serve.device_http.test_door import open_door as open_http
from tests.edgesync.serve.mqtt.door import Door, RawClient, open_door
from tests.edgesync.serve.mqtt.test_attributes import subscribe
from tests.edgesync.serve.mqtt.test_door import until_closed

pytestmark = pytest.mark.feature("S29")

BYTES = bytes(range(256)) * 10
LEVELS = pytest.mark.parametrize("level", [V311, V5])


def put(folder: Path, data: bytes = BYTES, version: str = "1.4.2") -> dict[str, Any]:
    """Put a package in its place; returns the shared attributes of a device that is to have it."""
    path = folder / "firmware" / "scale" / version
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {
        "fw_title": "scale", "fw_version": version, "fw_size": len(data),
        "fw_checksum": hashlib.sha256(data).hexdigest(), "fw_checksum_algorithm": "SHA256",
    }  # fmt: skip


def package(attributes: dict[str, Any]) -> Package:
    return Package.assigned("fw", attributes)


async def test_a_package_is_read_by_chunks(tmp_path: Path) -> None:
    wanted, folder = package(put(tmp_path)), PackageFolder(tmp_path / "firmware")
    assert await folder.chunk(wanted, 0, 0) == BYTES
    found = [await folder.chunk(wanted, number, 1000) for number in range(3)]
    assert [len(one) for one in found] == [1000, 1000, 560]
    assert b"".join(found) == BYTES
    with pytest.raises(NoPackage, match="has 2560 bytes, and no chunk 3"):
        await folder.chunk(wanted, 3, 1000)
    assert await folder.chunk(package(put(tmp_path, b"", "empty")), 0, 1000) == b""


@pytest.mark.parametrize("algorithm", ["SHA384", "SHA512", "md5"])
async def test_other_checksums_are_known(tmp_path: Path, algorithm: str) -> None:
    attributes = put(tmp_path)
    attributes["fw_checksum"] = hashlib.new(algorithm, BYTES).hexdigest().upper()
    attributes["fw_checksum_algorithm"] = algorithm
    assert await PackageFolder(tmp_path / "firmware").chunk(package(attributes), 0, 0) == BYTES


async def test_a_file_that_is_replaced_never_yields_parts_of_both(tmp_path: Path) -> None:
    """By another file of the same size, in its place or over it, between two chunks."""
    wanted, folder = package(put(tmp_path)), PackageFolder(tmp_path / "firmware")
    path = tmp_path / "firmware" / "scale" / "1.4.2"
    other = bytes(len(BYTES))
    for is_renamed in (True, False):
        assert await folder.chunk(wanted, 0, 1000) == BYTES[:1000]
        if is_renamed:
            path.with_name("new").write_bytes(other)
            path.with_name("new").rename(path)
        else:
            path.write_bytes(other)
        with pytest.raises(NoPackage, match="and not fw_checksum"):
            await folder.chunk(wanted, 1, 1000)
        path.write_bytes(BYTES)
        assert await folder.chunk(wanted, 1, 1000) == BYTES[1000:2000]


async def test_a_file_written_to_while_it_is_read_yields_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, folder = package(put(tmp_path)), PackageFolder(tmp_path / "firmware")
    pread = os.pread

    def read_and_write(descriptor: int, size: int, offset: int) -> bytes:
        put(tmp_path, BYTES + b"more")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", read_and_write)
    with pytest.raises(NoPackage, match="is being replaced"):
        await folder.chunk(wanted, 0, 1000)


async def test_a_checksum_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, folder = package(put(tmp_path)), PackageFolder(tmp_path / "firmware")
    computed: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        computed.append(name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(folder.chunk, wanted, number % 2, 1000)
    assert computed == ["sha256"]
    mistaken = package(put(tmp_path, version="2") | {"fw_checksum": "00"})
    for _ in range(3):  # a device that asks again and again
        with pytest.raises(NoPackage, match="and not fw_checksum"):
            await folder.chunk(mistaken, 0, 1000)
    assert computed == ["sha256"] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fw_title": None}, "fw_title is no shared attribute"),
        ({"fw_version": None}, "fw_version is no shared attribute"),
        ({"fw_checksum": None}, "fw_checksum is no shared attribute"),
        ({"fw_version": 1.5}, "fw_version is 1.5; write it as text"),
        ({"fw_title": "\ud800"}, "write it as text"),
        ({"fw_checksum_algorithm": "\ud800"}, r"fw_checksum_algorithm is '\ud800'"),
        ({"fw_checksum": "\udfff"}, "write it as text"),
        ({"fw_version": 10**5000}, "a number too large; write it as text"),
        ({"fw_checksum_algorithm": "CRC32"}, "fw_checksum_algorithm is 'CRC32'; known are SHA256"),
        ({"fw_checksum_algorithm": 10**5000}, "fw_checksum_algorithm is 'NO TEXT'"),
        ({"fw_size": "big"}, "fw_size is no number"),
        ({"fw_size": 10**5000}, "fw_size is no number"),
        ({"fw_size": 7}, "has 2560 bytes, and fw_size says 7"),
        ({"fw_checksum": "00"}, "and not fw_checksum"),
        ({"fw_title": "../firmware/scale"}, "fw_title is no name of a file"),
        ({"fw_title": ".."}, "fw_title is no name of a file"),
        ({"fw_version": ""}, "fw_version is no name of a file"),
        ({"fw_version": "a\0b"}, "write it as text"),
        ({"fw_version": "x" * 300}, "File name too long"),
        ({"fw_version": "1.4"}, "scale 1.4: No such file"),
        ({"fw_version": "folder"}, "is no file"),
        ({"fw_version": "pipe"}, "is no file"),
    ],
)
async def test_what_cannot_be_sent_is_said(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    attributes = put(tmp_path)
    (tmp_path / "firmware" / "scale" / "folder").mkdir()
    os.mkfifo(tmp_path / "firmware" / "scale" / "pipe")
    given = {name: one for name, one in (attributes | changed).items() if one is not None}
    with pytest.raises(NoPackage) as caught:
        await PackageFolder(tmp_path / "firmware").chunk(package(given), 0, 1000)
    assert said in str(caught.value)


async def test_files_that_are_known_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "FILES_KNOWN_MAX", 2)
    folder = PackageFolder(tmp_path / "firmware")
    for version in ("1", "2", "3", "1"):
        assert await folder.chunk(package(put(tmp_path, version=version)), 0, 0) == BYTES
    assert len(folder._known) == 2


# -- over MQTT ---------------------------------------------------------------------------------


def assign(door: Any, attributes: dict[str, Any]) -> None:
    door.node.entities.set_attributes("device", "Scale", attributes, "shared")


async def chunk(client: RawClient, number: int, size: str = "1000", kind: str = "fw") -> Publish:
    topic = f"v2/{kind}/request/7/chunk/{number}"
    await client.say(Publish(topic=topic, payload=size.encode(), qos=1, packet_id=9))
    assert await client.hear() == Puback(packet_id=9)
    answer = await client.hear()
    assert isinstance(answer, Publish), answer
    if answer.qos:
        await client.say(Puback(packet_id=answer.packet_id))
    return answer


@LEVELS
@pytest.mark.parametrize(
    "topic", ["v2/fw/response/+/chunk/+", "v2/fw/response/+"]  # as documented; as tb-mqtt-client
)  # fmt: skip
@pytest.mark.setting("mqtt.firmware")
async def test_a_device_takes_its_firmware(tmp_path: Path, level: int, topic: str) -> None:
    attributes = put(tmp_path)
    (tmp_path / "firmware").rename(tmp_path / "packages")
    async with (
        open_door(tmp_path, {"firmware": "packages"}) as door,
        door.client(level) as client,
    ):
        assign(door, attributes)
        await subscribe(client, topic, "v2/fw/error")
        found = [await chunk(client, number) for number in range(3)]
        assert [one.topic for one in found] == [f"v2/fw/response/7/chunk/{n}" for n in range(3)]
        assert b"".join(one.payload for one in found) == BYTES
        beyond = await chunk(client, 3)
        assert (beyond.topic, beyond.payload) == (
            "v2/fw/error", b"scale 1.4.2: has 2560 bytes, and no chunk 3"
        )  # fmt: skip
        assert door.server.status().refusals[-1].problem.endswith("no chunk 3")
        assert (await chunk(client, 0, "")).payload == BYTES


async def test_software_has_attributes_and_topics_of_its_own(tmp_path: Path) -> None:
    attributes = {name.replace("fw_", "sw_"): one for name, one in put(tmp_path).items()}
    async with open_door(tmp_path) as door, door.client() as client:
        assign(door, attributes)
        await subscribe(client, "v2/sw/response/+/chunk/+", "v2/fw/error")
        assert (await chunk(client, 0, kind="sw")).payload == BYTES[:1000]
        answer = await chunk(client, 0)
        assert answer.payload == b"fw_title is no shared attribute of this device"


@pytest.mark.parametrize(
    ("topic", "size", "reason"),
    [
        ("v2/fw/request/7/chunk/x", b"", Reason.PAYLOAD_FORMAT_INVALID),
        ("v2/fw/request/7/chunk/0", b"-1", Reason.PAYLOAD_FORMAT_INVALID),
        ("v2/fw/request/7/chunk/0", b"9" * 5000, Reason.PAYLOAD_FORMAT_INVALID),
        ("v2/fw/request/7/chunk/0", b"\xff", Reason.PAYLOAD_FORMAT_INVALID),
        ("v2/fw/request/7/chunk", b"", Reason.TOPIC_NAME_INVALID),
        ("v2/fw/request//chunk/1", b"", Reason.TOPIC_NAME_INVALID),
        ("v2/fw/request/7/chunk/0/1", b"", Reason.TOPIC_NAME_INVALID),
    ],
)
async def test_requests_that_are_none_are_refused(
    tmp_path: Path, topic: str, size: bytes, reason: Reason
) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as client:
        answer = await client.ask(Publish(topic=topic, payload=size, qos=1, packet_id=1))
        assert isinstance(answer, Puback)
        assert answer.reason == reason


async def test_a_chunk_is_bounded_by_the_edge_and_by_the_client(tmp_path: Path) -> None:
    large = os.urandom(CHUNK_BYTES_MAX + 1)
    async with open_door(tmp_path) as door, door.client(V5) as client:
        assign(door, put(tmp_path, large))
        await subscribe(client, "v2/fw/error")
        answer = await chunk(client, 0, "")
        assert b"ask for chunks of at most 1048576" in answer.payload
        assert (await chunk(client, 0, str(CHUNK_BYTES_MAX))).payload == large[:-1]
        assert (await chunk(client, 1, str(CHUNK_BYTES_MAX))).payload == large[-1:]
    async with open_door(tmp_path) as door:
        assign(door, put(tmp_path))
        properties = {0x27: 2000}  # Maximum Packet Size
        async with door.client(V5, properties=properties) as client:
            await subscribe(client, "v2/fw/error")
            assert b"larger than the packets" in (await chunk(client, 0, "")).payload
            assert (await chunk(client, 0)).payload == BYTES[:1000]


async def ask_for_many(door: Door, client: RawClient, count: int) -> None:
    asked = Publish(topic="v2/fw/request/7/chunk/0", payload=b"", qos=0)
    await client.say(*(asked for _ in range(count)))


async def test_a_client_that_takes_nothing_holds_little_and_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "TAKE_S", 0.5)
    async with open_door(tmp_path) as door:
        assign(door, put(tmp_path, os.urandom(CHUNK_BYTES_MAX)))
        async with door.client(V5, keepalive_s=0) as client:
            await ask_for_many(door, client, 50)
            held = 0
            with trio.move_on_after(30):
                while door.server.status().clients:
                    held = max(held, *(len(one.out) for one in door.server._clients.values()))
                    await trio.sleep(0.01)
            assert door.server.status().clients == 0
            assert held <= chunks_module.CHUNKS_OF_A_CLIENT * (CHUNK_BYTES_MAX + 1000)
            found = await until_closed(client)
            assert not any(isinstance(one, Disconnect) and one.reason == 0 for one in found)
        async with door.client(V5, client_id="other") as other:
            await subscribe(other, "v2/fw/response/+/chunk/+")
            assert len((await chunk(other, 0, "100")).payload) == 100


# -- over HTTP ---------------------------------------------------------------------------------


@pytest.mark.setting("device_http.firmware")
async def test_an_http_device_takes_its_firmware(tmp_path: Path) -> None:
    attributes = put(tmp_path)
    (tmp_path / "firmware").rename(tmp_path / "packages")
    async with (
        open_http(tmp_path, {"firmware": "packages"}) as door,
        door.client() as client,
    ):
        asked = SCALE + "firmware?title=scale&version=1.4.2&size=1000&chunk="
        status, _, body = await client.ask("GET", asked + "0")
        assert (status, json.loads(body)["message"][:8]) == (404, "fw_title")
        assign(door, attributes)
        found = b""
        for number in range(3):
            status, headers, body = await client.ask("GET", f"{asked}{number}")
            assert (status, headers["content-type"]) == (200, "application/octet-stream")
            found += body
        assert found == BYTES
        assert (await client.ask("GET", SCALE + "firmware"))[2] == BYTES
        for path, status, said in (
            (asked + "3", 404, "no chunk 3"),
            (asked + "x", 400, '"field":"chunk"'),
            (SCALE + "firmware?size=x", 400, '"field":"size"'),
            (SCALE + "firmware?version=1.4.3", 404, "this device is to have '1.4.2'"),
            (SCALE + "software", 404, "sw_title is no shared attribute"),
        ):
            code, headers, body = await client.ask("GET", path)
            assert (code, said in body.decode()) == (status, True), body
            assert headers["content-type"] == "application/json"
