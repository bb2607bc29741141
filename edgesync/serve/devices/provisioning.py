"""Devices that make themselves credentials: what they ask for, who may, and where those are kept.

A device shows the key and the secret of a `[[provision]]` in the file of devices. What it is given
is an entry as of that file, in a file of the edge's own, on disk before the device is told.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from edgesync.errors import ConfigError
from edgesync.serve.devices.certificates import (
    CERTIFICATES_MAX,
    BadCertificate,
    body_of,
    digest_of,
    read_certificate,
)
from edgesync.serve.devices.credentials import (
    PROVISIONED_MAX,
    Credentials,
    CredentialsFile,
    DeviceSettings,
    ProvisionSettings,
)
from edgesync.serve.devices.guesses import Guesses
from edgesync.serve.devices.values import BadPayload, checked_name, parse_json
from edgesync.serve.followed import stamp_of
from edgesync.store.directory import replace_file
from edgesync.toml import FILE_BYTES_MAX

log = logging.getLogger(__name__)

TOKEN, BASIC, X509 = "ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"
TEXT_CHARS_MAX: Final = 255
# A token that devices choose is guessed by nobody.
TOKEN_CHARS_MIN: Final = 8
# Random, of 120 bits: 20 characters, as ThingsBoard makes them.
RANDOM_BYTES: Final = 15
# How long an answer that may have been lost is given once more, and for how many devices.
REPEAT_S: Final = 300.0
REPEATS_MAX: Final = 1000
RETRY_S: Final = 1.0
# Different wrong keys and secrets of one network: a secret of eight characters lasts for ages, and
# a device that says the same wrong one for ever keeps out nobody behind its address.
GUESSES_MAX: Final = 10
TOO_MANY_GUESSES: Final = "too many wrong provision keys and secrets from this address"
Questions = dict[str, tuple[str, int]]
HEAD: Final = "# Written by the edge. To revoke a device, delete its entry.\n"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A device's request; what it leaves out of its credentials is made up."""

    key: str
    secret: str
    name: str = ""
    kind: str = TOKEN
    token: str = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""
    gateway: bool = False

    @property
    def chosen(self) -> tuple[str, ...]:
        """Return credentials that only this device knows; none if they are made up."""
        if self.kind == TOKEN:
            return (self.token,) if self.token else ()
        if self.kind == X509:
            return (self.certificate,)
        return (self.client_id, self.username, self.password) if self.password else ()


class ProvisionRefused(Exception):
    """A request that comes to nothing; `status` is ThingsBoard's word for it."""

    def __init__(self, problem: str, status: str = "FAILURE") -> None:
        super().__init__(problem)
        self.status = status


def read_request(payload: bytes) -> Request:
    """Return what a payload asks for; raises BadPayload."""
    found = parse_json(payload)
    if not isinstance(found, dict):
        raise BadPayload("payload", "is no object")
    kind = _text(found, "credentialsType") or TOKEN
    if kind not in (TOKEN, BASIC, X509):
        known = f"{TOKEN}, {BASIC} nor {X509}"
        raise BadPayload("credentialsType", f"{kind[:40]!r} is neither {known}")
    token = _text(found, "token") if kind == TOKEN else ""
    if token and len(token) < TOKEN_CHARS_MIN:
        raise BadPayload("token", f"has less than {TOKEN_CHARS_MIN} characters")
    if type(gateway := found.get("gateway") or False) is not bool:
        raise BadPayload("gateway", "is neither true nor false")
    basic = {
        field: _text(found, member) if kind == BASIC else ""
        for field, member in (
            ("client_id", "clientId"), ("username", "username"), ("password", "password"),
        )
    }  # fmt: skip
    name = _text(found, "deviceName")
    certificate = _certificate(found) if kind == X509 else ""
    return Request(
        key=_text(found, "provisionDeviceKey"), secret=_text(found, "provisionDeviceSecret"),
        name=checked_name("deviceName", name) if name else "", kind=kind, token=token,
        certificate=certificate, gateway=gateway, **basic,
    )  # fmt: skip


def _text(found: dict[str, Any], member: str) -> str:
    text = found.get(member) or ""
    if not isinstance(text, str) or len(text) > TEXT_CHARS_MAX or not text.isprintable():
        raise BadPayload(member, f"is no text of {TEXT_CHARS_MAX} characters on one line")
    return text


def _certificate(found: dict[str, Any]) -> str:
    """Return the certificate that ThingsBoard calls `hash`, as it is kept."""
    text = found.get("hash")
    if not isinstance(text, str):
        raise BadPayload("hash", "is no text; it is the device's certificate, in PEM or base64")
    try:
        return body_of(read_certificate(text))
    except BadCertificate as error:
        raise BadPayload("hash", f"{error}: {error.remedy}") from None


def settings_of(request: Request, credentials: Credentials) -> ProvisionSettings:
    """Return the entry whose key and secret are shown; raises ProvisionRefused."""
    known = credentials.provisions.get(request.key)
    expected = known.secret if known is not None else secrets.token_urlsafe(RANDOM_BYTES)
    if known is None or not hmac.compare_digest(expected.encode(), request.secret.encode()):
        raise ProvisionRefused("no provision key and secret like these", "NOT_FOUND")
    return known


def provision(
    request: Request,
    credentials: Credentials,
    *,
    reserved: Collection[str],
    is_repeated: Callable[[str], bool],
) -> tuple[DeviceSettings, bool]:
    """Return what a device is given, and whether that is new; raises ProvisionRefused.

    is_repeated   whether the device of a name has asked for the same before, and may not have had
                  the answer
    """
    settings = settings_of(request, credentials)
    if (known := _known(request, credentials)) is not None:
        if is_repeated(known.name) or (request.chosen and request.chosen == _chosen_of(known)):
            return known, False
        problem = "has its credentials; to give it others, delete its entry at the edge"
        raise ProvisionRefused(f"deviceName: {known.name!r} {problem}")
    if request.gateway and not settings.gateway:
        raise ProvisionRefused("gateway: this provision key makes no gateways")
    if settings.names and request.name not in settings.names:
        raise ProvisionRefused("deviceName: this provision key is for other devices")
    name = request.name or secrets.token_urlsafe(RANDOM_BYTES)
    if name in credentials.names or name in reserved:
        raise ProvisionRefused(f"deviceName: there is a {name!r} at this edge already")
    count = sum(one.provisioned_by == settings.key for one in credentials.provisioned)
    if count >= settings.max or len(credentials.provisioned) >= PROVISIONED_MAX:
        raise ProvisionRefused(f"this provision key has made {count} devices, and may no more")
    made = _made(request, name)
    if any(credentials.is_taken(one) for one in (made.token, made.username) if one):
        field = "token" if made.token else "username"
        raise ProvisionRefused(f"{field}: is in use; choose another one, or none")
    if made.certificate:
        if credentials.of_certificate(digest_of(read_certificate(made.certificate))) is not None:
            raise ProvisionRefused("hash: another device has this certificate")
        if len(credentials.certificates) >= CERTIFICATES_MAX:
            problem = f"{CERTIFICATES_MAX} devices have certificates at this edge, and no more may"
            raise ProvisionRefused(f"credentialsType: {problem}")
    return made, True


def _known(request: Request, credentials: Credentials) -> DeviceSettings | None:
    """Return what this key has given to the device that asks, if it has."""
    for one in credentials.provisioned:
        if one.provisioned_by == request.key and (
            one.name == request.name or (not request.name and request.chosen == _chosen_of(one))
        ):
            return one
    return None


def _chosen_of(one: DeviceSettings) -> tuple[str, ...]:
    if one.token or one.certificate:
        return (one.token or one.certificate,)
    return one.client_id, one.username, one.password


def _made(request: Request, name: str) -> DeviceSettings:
    common = {"name": name, "gateway": request.gateway, "provisioned_by": request.key}
    made_up = partial(secrets.token_urlsafe, RANDOM_BYTES)
    if request.kind == TOKEN:
        return msgspec.convert({**common, "token": request.token or made_up()}, DeviceSettings)
    if request.kind == X509:
        return msgspec.convert({**common, "certificate": request.certificate}, DeviceSettings)
    basic = {
        "client_id": request.client_id, "username": request.username or made_up(),
        "password": request.password or made_up(),
    }  # fmt: skip
    return msgspec.convert({**common, **basic}, DeviceSettings)


def success(one: DeviceSettings) -> bytes:
    kind, value = TOKEN, one.token  # type: str, object
    if one.certificate:
        kind, value = X509, one.certificate
    elif not one.token:
        kind = BASIC
        value = {"clientId": one.client_id, "userName": one.username, "password": one.password}
    return msgspec.json.encode(
        {"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value}
    )


def failure(problem: str, status: str = "FAILURE") -> bytes:
    return msgspec.json.encode({"status": status, "errorMsg": problem})


def as_toml(devices: Collection[DeviceSettings]) -> bytes:
    """Return devices as a file of devices says them."""
    lines = [HEAD]
    for one in devices:
        lines.append("[[device]]")
        for field, value in msgspec.to_builtins(one).items():
            if value:
                lines.append(f"{field} = {json.dumps(value, ensure_ascii=False)}")
        lines.append("")
    return "\n".join(lines).encode()


class Provisioning:
    """Answers devices that ask for credentials.

    reserved   names that no device may take, besides those of the file
    """

    def __init__(
        self,
        credentials: CredentialsFile,
        *,
        reserved: Collection[str] = (),
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._credentials = credentials
        self._reserved = frozenset(reserved)
        self._wall_ns = wall_ns
        self._used = set[str]()  # names of those who have come in, in this life
        self._unwritten = set[str]()  # ... of which the disk may not know it
        self._has_unwritten = trio.Event()
        self.guesses = Guesses(GUESSES_MAX, "provision keys and secrets")

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, str]:
        """Return what a device is told, and the problem with it; on disk when this returns."""
        try:
            request = read_request(payload)
            self._check_secret(request, address)  # before anything is read or waits
            one = await self._give(request, hashlib.sha256(payload).hexdigest())
        except BadPayload as error:
            return failure(str(error)), str(error)
        except ProvisionRefused as error:
            return failure(str(error), error.status), str(error)
        except (OSError, ConfigError) as error:
            log.error("nobody is provisioned: %s", error)
            return failure("cannot be stored at this edge; ask again later"), str(error)
        return success(one), ""

    def _check_secret(self, request: Request, address: str) -> None:
        """Raise ProvisionRefused for a wrong key or secret; for any, where many were tried."""
        guess = msgspec.json.encode((request.key, request.secret))
        if (wait_s := self.guesses.wait_s(address, guess)) > 0:
            raise ProvisionRefused(f"{TOO_MANY_GUESSES}; ask again in {math.ceil(wait_s)} s")
        try:
            settings_of(request, self._credentials.current)
        except ProvisionRefused:
            self.guesses.wrong(address, guess)
            raise

    def note_used(self, name: str) -> None:
        """The device has come in with its credentials: the answer is not repeated."""
        if name in self._credentials.current.provisioned_names and name not in self._used:
            self._used.add(name)
            self._unwritten.add(name)
            self._has_unwritten.set()

    async def run(self) -> None:
        """Write down who has come in, until cancelled: so it is after a restart, too."""
        while True:
            await self._has_unwritten.wait()
            self._has_unwritten, names = trio.Event(), frozenset(self._unwritten)
            try:
                await trio.to_thread.run_sync(self._forget_questions, names)
            except OSError as error:
                log.error("who has come in is written down later: %s", error)
                await trio.sleep(RETRY_S)
                self._has_unwritten.set()
            else:
                self._unwritten -= names

    async def _give(self, request: Request, digest: str) -> DeviceSettings:
        one, is_new = await trio.to_thread.run_sync(self._make, request, digest)
        self._credentials.refresh()
        if is_new:
            log.info("provisioned: device=%s key=%s", one.name, request.key)
            self._used.discard(one.name)
        return one

    def _make(self, request: Request, digest: str) -> tuple[DeviceSettings, bool]:
        """Read, decide and write, alone: there may be another door."""
        with self._alone():
            stamps = self._credentials.stamps()
            credentials, questions = self._credentials.read(), self._questions()
            one, is_new = provision(
                request, credentials, reserved=self._reserved,
                is_repeated=lambda name: name not in self._used
                and questions.get(name, ("", 0))[0] == digest,
            )  # fmt: skip
            if is_new:
                raw = as_toml([*credentials.provisioned, one])
                if len(raw) > FILE_BYTES_MAX:  # nobody could read it
                    raise ProvisionRefused("this edge has no room for more credentials")
                # First what was asked: a kill in between leaves a question that nobody repeats.
                self._keep_questions({**questions, one.name: (digest, self._now_s())})
                with_one = credentials.with_provisioned(one)
                written = replace_file(self._credentials.provisioned_path, raw)
                # Or who owns the sockets would read all of it again, for each device.
                self._credentials.offer([stamps[0], stamp_of(written)], with_one)
            return one, is_new

    def _forget_questions(self, names: Collection[str]) -> None:
        with self._alone():
            questions = self._questions()
            if not questions.keys().isdisjoint(names):
                kept = {name: one for name, one in questions.items() if name not in names}
                self._keep_questions(kept)

    def _questions(self) -> Questions:
        """Return what devices asked with lately, by name: its hash, and when, in s since 1970."""
        try:
            kept = msgspec.json.decode(self._asked_path.read_bytes(), type=Questions)
        except (FileNotFoundError, msgspec.DecodeError):
            return {}
        now_s = self._now_s()
        return {name: one for name, one in kept.items() if 0 <= now_s - one[1] < REPEAT_S}

    def _keep_questions(self, questions: Questions) -> None:
        newest = list(questions.items())[-REPEATS_MAX:]
        replace_file(self._asked_path, msgspec.json.encode(dict(newest)))

    @property
    def _asked_path(self) -> Path:
        return self._credentials.provisioned_path.with_suffix(".asked")

    def _now_s(self) -> int:
        return self._wall_ns() // 10**9

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._credentials.provisioned_path.with_suffix(".lock")
        with open(path, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
