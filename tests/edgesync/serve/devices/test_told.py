"""Tokens that the hub gives to devices."""

import fcntl
import hashlib
from pathlib import Path

import pytest

from edgesync.errors import RecordError
from edgesync.model import Action, Event, EventType
from edgesync.serve.devices.credentials import CredentialsFile
from edgesync.serve.devices.told import set_tokens
from edgesync.told import credentials_of, readings_of

pytestmark = pytest.mark.feature("S9")


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> CredentialsFile:
    path = tmp_path / "mqtt-devices.toml"
    path.write_text('[[device]]\nname = "pump"\ntoken = "the operator\'s"\n')
    return CredentialsFile(path, tmp_path)


def name_of(file: CredentialsFile, token: str) -> str | None:
    file.refresh()
    found = file.current.of_token(token)
    return None if found is None else found.name


def test_a_device_comes_in_with_its_new_token_and_not_with_the_old_one(
    file: CredentialsFile, tmp_path: Path
) -> None:
    set_tokens(tmp_path, {"scale": digest("first token")})
    assert name_of(file, "first token") == "scale"
    set_tokens(tmp_path, {"scale": digest("second token")})
    assert (name_of(file, "first token"), name_of(file, "second token")) == (None, "scale")
    assert "second token" not in (tmp_path / "mqtt-provisioned.toml").read_text()
    set_tokens(tmp_path, {"scale": ""})
    assert name_of(file, "second token") is None
    assert name_of(file, "the operator's") == "pump"


def test_what_the_operator_has_written_counts_before(file: CredentialsFile, tmp_path: Path) -> None:
    set_tokens(tmp_path, {"pump": digest("the hub's own")})
    assert name_of(file, "the hub's own") is None
    # A token that is another's is nobody's second one, and locks nobody out.
    set_tokens(tmp_path, {"scale": digest("the operator's")})
    set_tokens(tmp_path, {"mill": digest("a third one")})
    assert name_of(file, "the operator's") == "pump"
    assert name_of(file, "a third one") == "mill"


def test_a_file_that_somebody_writes_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "mqtt-provisioned.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unavailable"):
            set_tokens(tmp_path, {"scale": digest("a token")})


def test_many_are_one_file(file: CredentialsFile, tmp_path: Path) -> None:
    provisioned = tmp_path / "mqtt-provisioned.toml"
    tokens = {f"scale {n}": digest(f"token {n}") for n in range(1000)}
    set_tokens(tmp_path, tokens)
    assert name_of(file, "token 999") == "scale 999"
    before = provisioned.stat()
    set_tokens(tmp_path, dict(reversed(tokens.items())))  # told again
    assert provisioned.stat() == before
    set_tokens(tmp_path, {"scale 0": digest("another one"), "scale 1": "", "scale 2": "", "x": ""})
    assert [name_of(file, one) for one in ("token 0", "another one", "token 2")] == [
        None, "scale 0", None,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a\x7fb", "x" * 256, ""])
def test_a_name_that_the_file_could_not_have_is_refused(name: str) -> None:
    """Or no door opened after a restart, and nothing that the hub tells would fit any more."""
    event = Event(
        type=EventType.ENTITY, action=Action.CREDENTIALS_UPDATED, entity_id=name, body=b"{}",
        time_ns=1,
    )  # fmt: skip
    with pytest.raises(RecordError, match="credentials of no device"):
        credentials_of(event)


@pytest.mark.parametrize(("most", "bytes_max"), [(3, 1 << 20), (10, 300)])
def test_more_than_there_may_be_are_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, bytes_max: int
) -> None:
    monkeypatch.setattr("edgesync.serve.devices.told.PROVISIONED_MAX", most)
    monkeypatch.setattr("edgesync.serve.devices.told.FILE_BYTES_MAX", bytes_max)
    set_tokens(tmp_path, {"scale": digest("a token")})
    path = tmp_path / "mqtt-provisioned.toml"
    before = path.read_bytes()
    with pytest.raises(RecordError, match="1 devices were provisioned"):
        set_tokens(tmp_path, {f"mill {n}": digest(f"token {n}") for n in range(3)})
    assert path.read_bytes() == before
    monkeypatch.setattr("edgesync.serve.devices.told.PROVISIONED_MAX", 0)
    set_tokens(tmp_path, {"scale": digest("its next token")})  # that has its place


@pytest.mark.parametrize(
    ("entity", "body"),
    [
        ("", b'{"readings": []}'), ("sun", b"none"), ("sun", b'{"readings": [{"key": "P"}]}'),
        ("sun", b'{"readings": [{"key": "P", "value": 9223372036854775808, "time_ns": 1}]}'),
        ("sun", b'{"readings": [{"key": "", "value": 1, "time_ns": 1}]}'),
        ("sun", b'{"token_sha256": "short"}\xff'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(entity: str, body: bytes) -> None:
    event = Event(
        type=EventType.TELEMETRY, action=Action.TIMESERIES_UPDATED, entity_id=entity, body=body,
        time_ns=1,
    )  # fmt: skip
    with pytest.raises(RecordError):
        readings_of(event, 1)
    if b"readings" not in body or not entity:
        with pytest.raises(RecordError):
            credentials_of(event)
