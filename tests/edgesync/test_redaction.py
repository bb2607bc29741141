"""Secrets and their hashes are in no answer, however they are packed."""

import json
from typing import Any

import msgspec
import pytest

from edgesync import events
from edgesync._native import batch, event
from edgesync.entities.claims import offer
from edgesync.model import EventType, Lane, RecordKind
from edgesync.redaction import HIDDEN, hidden, hidden_bytes, hidden_text
from edgesync.told import Credentials
from tests.native.rowsmith import Draft, make_rows

TOLD: dict[str, Any] = {
    "a token of the hub": msgspec.to_builtins(Credentials(token_sha256="5" * 64, by="ana")),
    "a token": {"device": "Scale", "token": "5" * 64},
    "MQTT credentials": {
        "credentialsType": "MQTT_BASIC",
        "credentialsValue": {"password": "5" * 64},
    },
    "ThingsBoard's": {"accessToken": "5" * 64},
    "a call": {"method": "join", "params": {"ssid": "barn", "Password": "5" * 64}},
    "a provisioning request": {"provisionDeviceKey": "k", "provisionDeviceSecret": "5" * 64},
    "several": [{"old_password": "5" * 64}, [{"secret-key": "5" * 64}]],
    "an offer": offer("secret", 1, "salt") | {"digest": "5" * 64},
    "a number": {"password": int("5" * 18), "token_sha256": "5" * 64},
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_what_is_secret_is_hidden(told: Any) -> None:
    shown = hidden_bytes(json.dumps(told).encode())
    assert b"5555" not in shown
    assert HIDDEN.encode() in shown
    assert hidden_bytes(shown) == shown


@pytest.mark.parametrize("pack", [
    lambda text: json.dumps({"what": "downlink_unknown", "body": text}),
    lambda text: json.dumps({"body": text[:80]}),
    lambda text: json.dumps({"body": json.dumps({"body": json.dumps({"of": [text]})})}),
])  # fmt: skip
def test_what_is_secret_is_hidden_in_text_within(pack: Any) -> None:
    told = json.dumps(TOLD["a token of the hub"])
    shown = hidden_bytes(pack(told).encode())
    assert b"5555" not in shown
    assert HIDDEN.encode() in shown
    assert json.loads(shown)


def test_what_is_no_json_is_searched_as_text() -> None:
    record = b"\x01\xff\x00Scale" + b'{"token_sha256":"%s","by":"ana"}' % (b"5" * 64)
    assert hidden_bytes(record) == b'\x01\xff\x00Scale{"token_sha256":"(secret)","by":"ana"}'
    assert hidden_bytes(record[:-30]) == b'\x01\xff\x00Scale{"token_sha256":"(secret)'
    deep = b"[" * 10_000 + b'{"token":"5555"}'
    assert b"5555" not in hidden_bytes(deep)


@pytest.mark.parametrize("body", [
    b"", b"null", b"\xff\x00", b'{"token_sha256":"","by":"ana"}', b'{"token":null}', b'"token"',
    b'{"tokens":3,"n":18446744073709551616}', b'{"certificate":"SHA256:AB"}', b'{"digest": "ab"}',
    b' { "keys" : [1.0] } ',
])  # fmt: skip
def test_what_is_not_secret_is_left_as_it_is(body: bytes) -> None:
    assert hidden_bytes(body) == body
    assert hidden_text(body.decode("latin-1")) == body.decode("latin-1")


def test_an_edge_lists_its_events_without_secrets() -> None:
    raw = event.encode(EventType.ENTITY, 0, 0, "Scale", b'{"token_sha256":"5555"}', 1, 1, 0)
    draft = Draft(RecordKind.EVENT, raw)
    (record,) = batch.records(make_rows([draft], Lane.NORMAL, 1))
    shown = events._view(Lane.NORMAL, 1, record, 0, 0, set())
    assert shown is not None
    assert shown.body == '{"token_sha256":"(secret)"}'


def test_what_is_shown_is_a_copy() -> None:
    value = {"a": [{"token": "x"}]}
    assert hidden(value) == {"a": [{"token": HIDDEN}]}
    assert value == {"a": [{"token": "x"}]}
