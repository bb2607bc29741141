"""Key files that are private and whole, and tokens that survive being pasted by people."""

import stat
from pathlib import Path

import msgspec
import pytest

from edgesync_transport.keys import (
    TOKEN_CHARS_MAX,
    KeyFileError,
    KeyPair,
    Token,
    TokenError,
    decode_token,
    encode_token,
    is_key,
    load_or_create_keys,
    new_key_pair,
    new_routing_key,
    new_secret,
    read_keys,
    write_keys,
)

pytestmark = pytest.mark.feature("S6")

TOKEN = Token(
    address="tcp://hub.example:7070",
    enrol_url="https://hub.example:7080",
    server_key="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
    edge="plant-7",
    routing_key="0123456789abcdef",
    secret="a-secret-of-128-bits",
)


def test_keys_come_back_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "curve.key"
    made = load_or_create_keys(path)
    assert load_or_create_keys(path) == read_keys(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path], "nothing is left of the writing"


def test_a_key_file_others_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "curve.key"
    load_or_create_keys(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 0640 lets others read the secret; chmod 600 it"):
        read_keys(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is no key file"),
        ("public = 5\nsecret = 6\n", "is no key file"),
        ("\x00\xff", "is no key file"),
        ('public = "x"\nsecret = "y"\n', "40 characters of Z85"),
        (f'public = "{"é" * 40}"\nsecret = "{"0" * 40}"\n', "is no key file"),
        (f'public = "{"0" * 40}"\nsecret = "{"0" * 40}"\n', "not one pair"),
    ],
)
def test_a_damaged_key_file_is_named_and_kept(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "curve.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=problem):
        load_or_create_keys(path)
    assert path.read_text(encoding="utf-8") == content


def test_a_missing_file_and_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        read_keys(tmp_path / "curve.key")
    with pytest.raises(KeyFileError, match="cannot be written: No such file"):
        write_keys(tmp_path / "missing" / "curve.key", new_key_pair())


def test_secrets_are_not_shown() -> None:
    keys = new_key_pair()
    assert keys.secret not in repr(keys)
    assert keys.secret not in repr([keys])
    assert TOKEN.secret not in f"{TOKEN!r} {TOKEN}"


def test_a_key_is_forty_characters_of_z85() -> None:
    assert is_key(new_key_pair().public)
    for text in ("", "0" * 39, "0" * 41, "0" * 39 + "~", "0" * 39 + "\n", "0" * 40 + "\n"):
        assert not is_key(text)


def test_a_token_is_one_line_and_comes_back() -> None:
    text = encode_token(TOKEN)
    assert text.startswith("edgesync1.")
    assert text.isascii()
    assert len(text.split()) == 1
    assert decode_token(text) == TOKEN


def test_a_token_may_be_wrapped_by_a_mail_program() -> None:
    text = encode_token(TOKEN)
    wrapped = "  " + "\r\n ".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\n"
    assert decode_token(wrapped) == TOKEN


def test_every_single_mistyped_character_is_found() -> None:
    text = encode_token(TOKEN)
    start = len("edgesync1.")
    for at in range(start, len(text)):
        for other in "aA0-_9zZ":
            if other != text[at]:
                with pytest.raises(TokenError, match=r"copy it again, whole"):
                    decode_token(text[:at] + other + text[at + 1 :])


def test_swapped_lost_and_doubled_characters_are_found() -> None:
    text = encode_token(TOKEN)
    start = len("edgesync1.")
    for at in range(start, len(text) - 1):
        one, two = text[at], text[at + 1]
        if one != two:
            with pytest.raises(TokenError):
                decode_token(text[:at] + two + one + text[at + 2 :])
        with pytest.raises(TokenError):
            decode_token(text[:at] + text[at + 1 :])
        with pytest.raises(TokenError):
            decode_token(text[:at] + one + text[at:])


def test_every_part_of_a_token_is_incomplete() -> None:
    text = encode_token(TOKEN)
    for end in range(len(text)):
        with pytest.raises(TokenError):
            decode_token(text[:end])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no enrolment token: it would begin with edgesync1."),
        ("hello", "no enrolment token"),
        ("edgesync2.AAAA", "made by a newer hub: upgrade edgesync"),
        ("edgesync1.", "a character no token has"),
        ("edgesync1.AA+A", "a character no token has"),
        ("edgesync1.AAAA", "mistyped or incomplete"),
        ("edgesync1." + "A" * (TOKEN_CHARS_MAX + 1), "at most 2048"),
        ("edgesync1." + "A" * 10_000_000, "at most 2048"),
    ],
)
def test_what_is_no_token(text: str, problem: str) -> None:
    with pytest.raises(TokenError, match=problem):
        decode_token(text)


@pytest.mark.parametrize(
    "change",
    [
        {"address": "hub.example:7070"},
        {"address": "tcp://hub.example"},
        {"enrol_url": "ftp://hub.example"},
        {"server_key": "short"},
        {"server_key": "~" * 40},
        {"edge": ""},
        {"edge": "x" * 256},
        {"secret": ""},
    ],
)
def test_a_token_the_hub_must_not_print(change: dict[str, str]) -> None:
    with pytest.raises(TokenError):
        encode_token(msgspec.structs.replace(TOKEN, **change))


def test_secrets_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert len({new_routing_key() for _ in range(100)}) == 100
    assert len(new_secret()) >= 22, "128 bits in base64"


def test_keys_are_equal_by_value() -> None:
    keys = new_key_pair()
    assert keys == KeyPair(public=keys.public, secret=keys.secret)


@pytest.mark.parametrize("bit", [0o001, 0o002, 0o004, 0o010, 0o020, 0o040])
def test_whoever_else_may_do_anything_with_a_key_file_it_is_refused(
    tmp_path: Path, bit: int
) -> None:
    path = tmp_path / "curve.key"
    load_or_create_keys(path)
    path.chmod(0o600 | bit)
    with pytest.raises(KeyFileError, match=f"mode {0o600 | bit:04o}"):
        read_keys(path)
