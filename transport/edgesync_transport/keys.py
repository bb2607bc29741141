"""CURVE key pairs on disk, and the one-line token that brings an edge to its hub.

The edge makes its own key pair and keeps the secret half; the hub learns the public half when the
edge redeems its enrolment token. Keys are written in Z85, ZeroMQ's text form of 32 bytes.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
import tomllib
import zlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
import zmq
from zmq.utils import z85

Z85_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")

GUEST_PREFIX: Final = b"edgesync guest key\0"
TOKEN_PREFIX: Final = "edgesync1."
# A token is pasted by people; nothing in it is long.
TOKEN_CHARS_MAX: Final = 2048

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class KeyFileError(Exception):
    """A key file that cannot be used; the sentence names the remedy."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class TokenError(ValueError):
    """Text that is no enrolment token; the sentence says what is wrong with it."""


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """Both halves in Z85, 40 characters each. The secret is kept out of `repr`."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


def new_key_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public=public.decode(), secret=secret.decode())


def guest_keys(secret: str) -> KeyPair:
    """Return the pair that whoever holds a token connects with to redeem it over the link.

    The hub lets in no key that it does not know. This one it knows since it made the token, and
    CURVE's handshake proves who has the secret without sending it.
    """
    private = z85.encode(hashlib.sha256(GUEST_PREFIX + secret.encode()).digest())
    return KeyPair(public=zmq.curve_public(private).decode(), secret=private.decode())


def is_key(text: str) -> bool:
    """Whether `text` is a key in Z85; says nothing about whose."""
    return Z85_KEY.fullmatch(text) is not None


def write_keys(path: Path, keys: KeyPair) -> None:
    """Store `keys` with mode 0600; on the disk when this returns, whole or not at all."""
    text = (
        "# A CURVE key pair of edgesync. Whoever can read `secret` can speak as its owner.\n"
        f'public = "{keys.public}"\nsecret = "{keys.secret}"\n'
    )
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # The mode is given at creation: a file that was readable for a moment has been read.
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        part.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise KeyFileError(path, f"cannot be written: {error.strerror}") from error


def read_keys(path: Path) -> KeyPair:
    """Return the pair in `path`; raises KeyFileError if it is missing, damaged or not private."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(4096)
    except OSError as error:
        raise KeyFileError(path, f"cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(path, f"mode {mode:04o} lets others read the secret; chmod 600 it")
    try:
        table = tomllib.loads(raw.decode("ascii"))
        keys = msgspec.convert(table, KeyPair)
    except (ValueError, msgspec.ValidationError) as error:
        raise KeyFileError(path, f"is no key file ({error}); restore it or enrol again") from error
    if not (is_key(keys.public) and is_key(keys.secret)):
        raise KeyFileError(path, "a key is not 40 characters of Z85; restore it or enrol again")
    if zmq.curve_public(keys.secret.encode()).decode() != keys.public:
        raise KeyFileError(path, "public and secret are not one pair; restore it or enrol again")
    return keys


def load_or_create_keys(path: Path) -> KeyPair:
    """Return the pair in `path`, making it if there is no such file. An unusable one is kept."""
    if path.exists():
        return read_keys(path)
    keys = new_key_pair()
    write_keys(path, keys)
    return keys


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Token(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What an edge needs to find its hub, to know it, and to be let in once.

    address      the hub's link, `tcp://host:port`
    enrol_url    where to register the edge's public key, `http(s)://host:port`; "" if that is
                 done over the link
    server_key   the hub's public CURVE key in Z85: the edge talks to no other
    edge         the name the hub gave the edge
    routing_key  names the enrolment at the hub, not secret
    secret       redeems it, once
    """

    address: Annotated[str, msgspec.Meta(pattern=r"^tcp://.+:\d{1,5}$", max_length=300)]
    enrol_url: Annotated[str, msgspec.Meta(pattern=r"^(https?://.+)?$", max_length=300)] = ""
    server_key: Annotated[str, msgspec.Meta(min_length=40, max_length=40)]
    edge: Text
    routing_key: Text
    secret: Text

    def __repr__(self) -> str:
        return f"Token(edge={self.edge!r}, address={self.address!r})"


def new_routing_key() -> str:
    return secrets.token_hex(8)


def new_secret() -> str:
    """128 random bits: enough that a fast hash may be stored instead of it."""
    return secrets.token_urlsafe(16)


def encode_token(token: Token) -> str:
    """Return `token` as one line. Raises TokenError for values no token may hold."""
    raw = msgspec.msgpack.encode(token)
    _parse(raw)
    body = base64.urlsafe_b64encode(raw + zlib.crc32(raw).to_bytes(4, "big"))
    return TOKEN_PREFIX + body.decode().rstrip("=")


def decode_token(text: str) -> Token:
    """Return the token in `text`; white space around and inside it (a wrapped line) is ignored.

    Raises TokenError. The CRC-32 finds every single mistyped character and every pair of swapped
    neighbours, so that a typing error is told apart from a refusal by the hub.
    """
    if len(text) > 2 * TOKEN_CHARS_MAX:
        raise TokenError(f"{len(text)} characters; a token has at most {TOKEN_CHARS_MAX}")
    line = "".join(text.split())
    if not line.startswith(TOKEN_PREFIX):
        if re.match(r"edgesync\d+\.", line):
            raise TokenError("the token was made by a newer hub: upgrade edgesync")
        raise TokenError(f"no enrolment token: it would begin with {TOKEN_PREFIX}")
    body = line.removeprefix(TOKEN_PREFIX)
    if len(body) > TOKEN_CHARS_MAX:
        raise TokenError(f"{len(body)} characters; a token has at most {TOKEN_CHARS_MAX}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", body):
        raise TokenError("the token has a character no token has: copy it again, whole")
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error as error:
        raise TokenError("the token is incomplete: copy it again, whole") from error
    # Unused bits of the last character would let two texts mean one token.
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != body or len(raw) < 5:
        raise TokenError("the token is mistyped or incomplete: copy it again, whole")
    raw, crc = raw[:-4], int.from_bytes(raw[-4:], "big")
    if zlib.crc32(raw) != crc:
        raise TokenError("the token is mistyped or incomplete (checksum): copy it again, whole")
    return _parse(raw)


def _parse(raw: bytes) -> Token:
    try:
        token = msgspec.msgpack.decode(raw, type=Token)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise TokenError(f"the token holds something else than it should: {error}") from error
    if not is_key(token.server_key):
        raise TokenError("the token's server key is not 40 characters of Z85")
    return token
