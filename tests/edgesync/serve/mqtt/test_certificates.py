"""Devices that show a certificate instead of a token."""

import base64
import json
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync.demo.site import free_ports
from edgesync.errors import ConfigError
from edgesync.serve.devices import certificates
from edgesync.serve.devices.credentials import Credentials, DeviceSettings
from edgesync.serve.mqtt import server as server_module
from edgesync.serve.mqtt.client import Client as DoorClient
from edgesync.serve.mqtt.door import certificate_doubt
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import V5, V311, Connack, Connect, Disconnect, Puback, Reason
from edgesync.serve.mqtt.settings import MqttSection
from edgesync.serve.mqtt.tls import MqttTls
from tests.edgesync.serve.mqtt.certificates import (
    Made,
    fingerprint_of,
    make_ca,
    make_self_signed,
    make_signed,
)
from tests.edgesync.serve.mqtt.door import DEVICES, Door, RawClient, make_certificate, open_door
from tests.edgesync.serve.mqtt.test_door import telemetry
from tests.sites import until

pytestmark = [pytest.mark.feature("S29"), pytest.mark.slow]

TLS_VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def entry(name: str, made: Made) -> str:
    return f'\n[[device]]\nname = "{name}"\n{made.entry}'


@asynccontextmanager
async def opened(folder: Path, devices: str = "", **settings: Any) -> AsyncIterator[Door]:
    certificate, key = make_certificate(folder)
    (port,) = free_ports(1)
    section = {"tls_port": port, "certificate": certificate.name, "key": key.name, **settings}
    async with open_door(folder, section, devices=DEVICES + devices) as door:
        yield door


@asynccontextmanager
async def shown(
    door: Door, made: Made | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[RawClient]:
    """A client that shows a certificate, and has not said CONNECT yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    if made is not None:
        context.load_cert_chain(made.certificate, made.key)
    plain = await trio.open_tcp_stream("127.0.0.1", door.port)
    async with trio.SSLStream(plain, context, https_compatible=True) as stream:
        yield RawClient(stream, V5)


async def asked_in(client: RawClient, **connect: Any) -> Connack:
    answer = await client.ask(Connect(level=V5, **{"client_id": "c", **connect}))
    assert isinstance(answer, Connack)
    return answer


async def refused_by_tls(door: Door, made: Made, **connect: Any) -> str:
    """Return the alert that ends a client: of TLS 1.3 it comes when the client is done already."""
    try:
        async with shown(door, made) as client:
            await client.say(Connect(level=V5, client_id="c", **connect))
            await client.stream.receive_some()
    except trio.BrokenResourceError as error:
        return str(error.__cause__)
    return ""


async def test_who_has_gone_before_it_is_let_in_ends_nobody(tmp_path: Path) -> None:
    """I8: a reset that comes before the door's turn."""
    made = make_self_signed(tmp_path, "valve")
    async with opened(tmp_path, entry("Valve 3", made)) as door:
        for _ in range(20):
            gone = socket.create_connection(("127.0.0.1", door.port))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        async with shown(door, made) as client:
            assert (await asked_in(client)).reason == 0
        await until(lambda: len(door.server._clients) == 0)


async def test_what_one_connection_meets_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, receive = make_self_signed(tmp_path, "valve"), DoorClient.receive

    def fail(client: DoorClient) -> bytes | None:
        if client.device is None and len(door.server._clients) > 1:
            raise RuntimeError("a mistake of ours")
        return receive(client)

    async with opened(tmp_path, entry("Valve 3", made)) as door, shown(door, made) as client:
        assert (await asked_in(client)).reason == 0
        await until(lambda: len(door.server._clients) == 1)
        monkeypatch.setattr(DoorClient, "receive", fail)
        async with door.stranger() as other:
            await other.stream.send_all(b"x")
            assert await other.hear_nothing()
        assert await client.ask(telemetry({"n": 1})) == Puback(packet_id=1)
        assert "a connection failed" in caplog.text


async def test_a_flood_of_handshakes_takes_a_few_of_each_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole edge waits for a turn of the door."""
    most = done = 0
    turn, receive = server_module.MqttServer._turn, DoorClient.receive

    def counted_turn(server: server_module.MqttServer) -> bool:
        nonlocal most, done
        done = 0
        had_work = turn(server)
        most = max(most, done)
        return had_work

    def counted_receive(client: DoorClient) -> bytes | None:
        nonlocal done
        done += client.is_greeting
        return receive(client)

    monkeypatch.setattr(server_module.MqttServer, "_turn", counted_turn)
    monkeypatch.setattr(DoorClient, "receive", counted_receive)
    made = make_self_signed(tmp_path, "valve")
    async with opened(tmp_path, entry("Valve 3", made)) as door:
        flood = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(40)]
        for one in flood:
            one.sendall(b"\x16\x03\x01")  # what every handshake begins with
        async with shown(door, made) as client:
            assert (await asked_in(client)).reason == 0
        assert 1 <= most <= server_module.HANDSHAKES_A_TURN
        for one in flood:
            one.close()


async def test_strangers_take_a_bound_of_memory_and_have_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STRANGERS_MAX", 5)
    made = make_self_signed(tmp_path, "valve")
    async with opened(tmp_path, entry("Valve 3", made)) as door, shown(door, made) as early:
        assert (await asked_in(early, client_id="early")).reason == 0
        strangers = door.server._strangers
        silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(5)]
        await until(lambda: len(strangers) == 5)
        first = set(strangers.values())
        async with shown(door, made) as client:
            assert (await asked_in(client)).reason == 0
        gone = first - set(strangers.values())
        assert len(gone) >= 1
        assert all(trio.current_time() - one.since >= server_module.STRANGER_S for one in gone)
        assert len(strangers) <= 5
        assert await early.ask(telemetry({"n": 1})) == Puback(packet_id=1)
        for one in silent:
            one.close()


@TLS_VERSIONS
async def test_a_device_is_known_by_its_certificate(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """One that it has signed itself, too; name, token and client id do not count beside it."""
    made, other = make_self_signed(tmp_path, "valve"), make_self_signed(tmp_path, "Scale")
    async with opened(tmp_path, entry("Valve 3", made) + entry("Valve 4", other)) as door:
        for number, connect in enumerate(({}, {"username": "SCALE_TOKEN"}, {"username": "nobody"})):
            async with shown(door, made, version) as client:
                assert (await asked_in(client, **connect)).reason == 0
                answer = await client.ask(telemetry({"n": number}))
                assert answer == Puback(packet_id=1)
        async with shown(door, other, version) as client:
            await asked_in(client)
            await client.ask(telemetry({"n": 9}))
        async with shown(door, None, version) as client:
            assert (await asked_in(client, username="SCALE_TOKEN")).reason == 0
            await client.ask(telemetry({"n": 10}))
        assert door.values() == {("Valve 3", "n"): 2, ("Valve 4", "n"): 9, ("Scale", "n"): 10}
        assert door.server.status().rejected == 0


async def test_a_stranger_is_refused_by_tls_and_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it says it is, and whoever signed it: a device's key makes no other devices."""
    made = make_self_signed(tmp_path, "valve")
    same_name = tmp_path / "same"
    same_name.mkdir()
    async with opened(tmp_path, entry("Valve 3", made)) as door:
        for stranger in (make_self_signed(same_name, "valve"), make_ca(tmp_path)):
            assert "unknown ca" in await refused_by_tls(door, stranger, username="SCALE_TOKEN")
        async with shown(door, make_signed(tmp_path, "child", made)) as client:
            answer = await asked_in(client)
            assert answer.reason == Reason.NOT_AUTHORIZED
            assert "no device has this certificate" in str(answer.properties)
        assert door.server.status().rejected == 3
    lines = [one.getMessage() for one in caplog.records if "not let in" in one.getMessage()]
    assert len(lines) == 1
    assert "problem=certificate: self-signed certificate; 0 more before" in lines[0]


async def test_a_certificate_holds_at_its_time(tmp_path: Path) -> None:
    made = make_self_signed(tmp_path, "valve")
    async with opened(tmp_path, entry("Valve 3", made)) as door:
        now_ns = 0
        door.server._identities._wall_ns = lambda: now_ns
        for now_s, said in ((0, "not valid before"), (32_503_680_000, "expired at")):
            now_ns = now_s * 1_000_000_000
            async with shown(door, made) as client:
                answer = await asked_in(client)
            assert answer.reason == Reason.NOT_AUTHORIZED
            assert f"certificate: {said}" in str(answer.properties)
        assert door.server.status().rejected == 2


async def test_who_may_come_in_changes_with_the_file(tmp_path: Path) -> None:
    """A new certificate counts at once; one that is taken back ends its connection, as a token."""
    old, new = make_self_signed(tmp_path, "old"), make_self_signed(tmp_path, "new")
    path = tmp_path / "mqtt-devices.toml"
    async with opened(tmp_path) as door:
        path.write_text(DEVICES + entry("Valve 3", old))
        async with shown(door, old) as client, door_client(door, "SCALE_TOKEN") as scale:
            assert (await asked_in(client)).reason == 0
            async with door_client(door, "GATE_TOKEN") as gate:
                devices = DEVICES.replace("SCALE_TOKEN", "ANOTHER_TOKEN")
                path.write_text(devices + entry("Valve 3", new))
                for ended in (client, scale):
                    told = await ended.hear()
                    assert isinstance(told, Disconnect)
                    assert told.reason == Reason.NOT_AUTHORIZED
                assert await gate.ask(telemetry({"n": 1})) == Puback(packet_id=1)
        async with shown(door, new) as client:
            assert (await asked_in(client)).reason == 0
        async with shown(door, old) as client:
            assert (await asked_in(client)).reason == Reason.NOT_AUTHORIZED


@asynccontextmanager
async def door_client(door: Door, token: str) -> AsyncIterator[RawClient]:
    async with shown(door, None) as client:
        assert (await asked_in(client, username=token)).reason == 0
        yield client


@TLS_VERSIONS
async def test_a_session_that_is_resumed_lets_in_nobody_who_was_taken_back(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A ticket of TLS stands for a handshake of before: the file decides at each CONNECT."""
    made, other = make_self_signed(tmp_path, "valve"), make_self_signed(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    context.load_cert_chain(made.certificate, made.key)
    hello = encode(Connect(level=V311, client_id="c"), V311)

    def come_back(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, int]:
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, session=session) as stream:
            stream.sendall(hello)
            code = stream.recv(4)[3]
            assert stream.session_reused is (session is not None)
            return stream.session, code

    async with opened(tmp_path, entry("Valve 3", made) + entry("Valve 4", other)) as door:

        async def come(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, int]:
            return await trio.to_thread.run_sync(come_back, door.port, session)

        session, code = await come(None)
        assert code == 0
        session, code = await come(session)
        assert code == 0
        (tmp_path / "mqtt-devices.toml").write_text(DEVICES + entry("Valve 4", other))
        assert (await come(session))[1] == 5


@pytest.mark.setting("mqtt.client_ca")
async def test_devices_of_a_ca_are_known_by_fingerprints(tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    valve, stranger = make_signed(tmp_path, "valve", ca), make_signed(tmp_path, "stranger", ca)
    expired, alone = make_signed(tmp_path, "old", ca, days=-1), make_self_signed(tmp_path, "alone")
    devices = entry("Alone", alone) + "".join(
        f'\n[[device]]\nname = "{name}"\nfingerprint = "{text}"\n'
        for name, text in (
            ("Valve 3", fingerprint_of(valve)),
            ("Valve 4", fingerprint_of(expired).replace(":", "").lower()),
        )
    )
    async with opened(tmp_path, devices, client_ca="ca.crt") as door:
        for made, name in ((valve, "Valve 3"), (alone, "Alone")):
            async with shown(door, made) as client:
                assert (await asked_in(client)).reason == 0
                await client.ask(telemetry({"n": 1}))
            assert door.values()[(name, "n")] == 1
        async with shown(door, stranger) as client:
            assert (await asked_in(client)).reason == Reason.NOT_AUTHORIZED
        assert "certificate expired" in await refused_by_tls(door, expired)


async def test_a_device_gives_itself_a_certificate(tmp_path: Path) -> None:
    """ThingsBoard's `hash` is the certificate; the answer has it as ThingsBoard keeps it."""
    made, other = make_self_signed(tmp_path, "valve"), make_self_signed(tmp_path, "other")
    provision = '\n[[provision]]\nkey = "valves"\nsecret = "valves-secret"\n'
    request = {
        "provisionDeviceKey": "valves", "provisionDeviceSecret": "valves-secret",
        "deviceName": "Valve 3", "credentialsType": "X509_CERTIFICATE", "hash": made.pem,
    }  # fmt: skip
    body = base64.b64encode(ssl.PEM_cert_to_DER_cert(made.pem)).decode()
    async with opened(tmp_path, provision) as door:
        provisioning = door.server._provisioning
        for text in (made.pem, body):
            raw = json.dumps({**request, "hash": text}).encode()
            answer, problem = await provisioning.answer(raw, "::1")
            assert (json.loads(answer), problem) == (
                {
                    "status": "SUCCESS", "credentialsType": "X509_CERTIFICATE",
                    "credentialsValue": body,
                },
                "",
            )  # fmt: skip
        async with shown(door, made) as client:
            assert (await asked_in(client)).reason == 0
        for changed, said in (
            ({"deviceName": "Valve 4"}, "hash: another device has this certificate"),
            ({"hash": other.pem}, "deviceName: 'Valve 3' has its credentials"),
            ({"deviceName": "Valve 4", "hash": other.key.read_text()}, "hash: holds a private key"),
            ({"deviceName": "Valve 4", "hash": None}, "hash: is no text"),
            ({"deviceName": "Valve 4", "hash": "MIIB"}, "hash: is no certificate"),
        ):
            raw = json.dumps({**request, **changed}).encode()
            answer, problem = await provisioning.answer(raw, "::1")
            assert problem.startswith(said)
            assert json.loads(answer)["status"] == "FAILURE"
    async with opened(tmp_path, provision) as door, shown(door, made) as client:
        assert (await asked_in(client)).reason == 0


def test_what_is_no_certificate_of_a_device_is_refused_and_not_repeated(tmp_path: Path) -> None:
    made, ca = make_self_signed(tmp_path, "valve"), make_ca(tmp_path)
    der = ssl.PEM_cert_to_DER_cert(made.pem)
    cut = "-----BEGIN CERTIFICATE-----\n" + "\n".join(made.pem.splitlines()[1:4])
    for text, said in (
        (made.pem + made.key.read_text(), "holds a private key"),
        ("x" * 20_000 + made.key.read_text(), "holds a private key"),
        (made.pem + ca.pem, "holds 2 certificates"),
        ("A" * 20_000, "is longer than"),
        ("", "is no certificate"),
        ("AAAA", "is no certificate"),
        ("\x00\udc80", "is no certificate"),
        (cut, "is no certificate"),
        (der.decode("latin-1"), "is no certificate"),
        (ssl.DER_cert_to_PEM_cert(der + b"\0"), "is no certificate"),
        (ssl.DER_cert_to_PEM_cert(der[:-1]), "is no certificate"),
        (ssl.DER_cert_to_PEM_cert(der + der), "is no certificate"),
        (ssl.DER_cert_to_PEM_cert(b"\x30\x84\xff\xff"), "is no certificate"),
        (made.pem.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "is no certificate"),
    ):
        with pytest.raises(certificates.BadCertificate) as caught:
            certificates.read_certificate(text)
        assert str(caught.value).startswith(said)
        assert not text or text not in f"{caught.value} {caught.value.remedy}"
    for text in (
        made.pem,
        "of valve 3:\r\n" + made.pem.replace("\n", "\r\n"),
        certificates.body_of(der),
    ):
        assert certificates.read_certificate(text) == der


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('certificate = "nonsense"', "device[3] (Valve 3): certificate is no certificate"),
        ('fingerprint = "nonsense"', "device[3] (Valve 3): fingerprint is no SHA-256"),
        ('certificate = "a"\ntoken = "b"', "has a token and something else"),
        ('certificate = "a"\nusername = "b"', "has a certificate and something else"),
    ],
)
async def test_a_mistake_in_the_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: str, said: str
) -> None:
    async with open_door(tmp_path) as door:
        path = tmp_path / "mqtt-devices.toml"
        path.write_text(f'{DEVICES}\n[[device]]\nname = "Valve 3"\n{more}\n')
        assert not door.server._credentials.refresh()
        assert "devices stay as they were" in caplog.text
        assert said in caplog.text
        async with door.client() as client:
            assert await client.ask(telemetry({"n": 1})) == Puback(packet_id=1)


async def test_a_private_key_in_the_file_is_not_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_self_signed(tmp_path, "valve")
    caplog.set_level(logging.DEBUG)
    async with open_door(tmp_path) as door:
        key = made.key.read_text()
        text = f'{DEVICES}\n[[device]]\nname = "Valve 3"\ncertificate = """{key}{made.pem}"""\n'
        (tmp_path / "mqtt-devices.toml").write_text(text)
        assert not door.server._credentials.refresh()
    assert "holds a private key" in caplog.text
    assert not any(line in caplog.text for line in key.splitlines())


async def test_one_certificate_is_of_one_device_and_there_are_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_self_signed(tmp_path, "one"), make_self_signed(tmp_path, "two")
    same = f'\n[[device]]\nname = "Valve 4"\nfingerprint = "{fingerprint_of(one)}"\n'
    monkeypatch.setattr("edgesync.serve.devices.credentials.CERTIFICATES_MAX", 1)
    async with open_door(tmp_path) as door:
        for devices, said in (
            (entry("Valve 3", one) + same, "has the certificate of Valve 3"),
            (entry("Valve 3", one) + entry("Valve 4", two), "is one of more than 1"),
        ):
            (tmp_path / "mqtt-devices.toml").write_text(DEVICES + devices)
            assert not door.server._credentials.refresh()
            assert said in caplog.text


async def test_certificates_that_were_taken_back_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesync.serve.mqtt.tls.TRUSTED_MAX", 2)
    made = [make_self_signed(tmp_path, f"valve{number}") for number in range(3)]
    async with opened(tmp_path) as door:
        for one in made:
            (tmp_path / "mqtt-devices.toml").write_text(DEVICES + entry("Valve 3", one))
            async with shown(door, one) as client:
                assert (await asked_in(client)).reason == 0
        assert "unknown ca" in await refused_by_tls(door, made[0])


async def test_the_doors_own_certificate_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    device = make_self_signed(tmp_path, "valve")
    async with opened(tmp_path, entry("Valve 3", device)) as door:
        tls = door.server._tls
        assert tls is not None
        async with shown(door, device) as client:
            assert (await asked_in(client)).reason == 0
        before = tls.current
        (tmp_path / "mqtt.crt").write_text("nothing")
        assert not tls.refresh()
        assert "certificates stay as they were" in caplog.text
        assert tls.current is before
        make_certificate(tmp_path)
        assert tls.refresh()
        assert not tls.refresh()
        async with shown(door, device) as client:
            assert (await asked_in(client)).reason == 0


def test_what_the_settings_keep_from_devices_with_certificates_is_doubtful() -> None:
    bare = Credentials([], file="")
    known = Credentials([DeviceSettings(name="a", fingerprint="00" * 32)], file="")
    closed, opened, with_ca = (
        MqttSection(),
        MqttSection(tls_port=8883),
        MqttSection(tls_port=8883, client_ca="ca.crt"),
    )
    assert certificate_doubt(closed, bare) == certificate_doubt(opened, bare) == ""
    assert certificate_doubt(closed, known).startswith("mqtt.tls_port is 0")
    assert certificate_doubt(opened, known).startswith("mqtt.client_ca is not set")
    assert certificate_doubt(with_ca, known) == ""


def test_a_client_ca_that_is_none_is_named(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "empty").write_text("")
    for name, said in (("none", "is not there"), ("empty", "cannot be used")):
        section = MqttSection(
            tls_port=8883, certificate=certificate.name, key=key.name, client_ca=name
        )
        with pytest.raises(ConfigError, match=said) as caught:
            MqttTls(section, tmp_path)
        assert caught.value.field == "mqtt.client_ca"
