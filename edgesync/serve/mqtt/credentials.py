"""Who may come in: the file with the devices' access tokens, client ids, users and passwords.

The file is read again when it changes; one that cannot be read changes nothing, as the log says.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edgesync import toml
from edgesync.errors import ConfigError
from edgesync.serve.mqtt.packets import Connect, Reason
from edgesync.serve.mqtt.thingsboard import Device, Refused

log = logging.getLogger(__name__)

READABLE_BY_OTHERS: Final = 0o077


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device: an access token, sent as user name; or what of the other three is said.

    gateway  it may speak for other devices
    """

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    token: str = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    gateway: bool = False

    def __repr__(self) -> str:
        return f"DeviceSettings({self.name!r})"  # without what is secret


class DevicesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    device: tuple[DeviceSettings, ...] = ()


class Credentials:
    """The devices of a file; raises ConfigError for those nobody could be."""

    def __init__(
        self, settings: Sequence[DeviceSettings] = (), *, file: str, anonymous: str = ""
    ) -> None:
        self._anonymous = Device(anonymous, is_anonymous=True) if anonymous else None
        self._tokens: dict[bytes, Device] = {}
        self._users: dict[str, list[DeviceSettings]] = {}
        self._client_ids: dict[str, list[DeviceSettings]] = {}
        self.devices = {_device(one) for one in settings}
        if self._anonymous is not None:
            self.devices.add(self._anonymous)
        self.names = {one.name for one in settings}
        for index, one in enumerate(settings):
            if problem := self._add(one):
                raise ConfigError(file=file, field=f"device[{index}] ({one.name})", **problem)

    def _add(self, one: DeviceSettings) -> Mapping[str, str] | None:
        if one.token and (one.client_id or one.username or one.password):
            return {
                "problem": "has a token and something else",
                "remedy": "write two entries of that name",
            }
        if one.token:
            digest = _digest(one.token)
            if digest in self._tokens:
                return {
                    "problem": f"has the token of {self._tokens[digest].name}",
                    "remedy": "give each device one of its own",
                }
            self._tokens[digest] = _device(one)
        elif one.username:
            self._users.setdefault(one.username, []).append(one)
        elif one.client_id:
            self._client_ids.setdefault(one.client_id, []).append(one)
        else:
            return {"problem": "has no credentials", "remedy": "add token, username or client_id"}
        return None

    def of_token(self, token: str) -> Device | None:
        return self._tokens.get(_digest(token))

    def identify(self, connect: Connect) -> Device:
        """Return whose credentials a client shows; raises Refused."""
        user = connect.username or ""
        if user:
            if (device := self.of_token(user)) is not None:
                return device
            known = self._users.get(user, [])
        else:
            known = self._client_ids.get(connect.client_id, [])
        for one in known:
            if _shows(connect, one):
                return _device(one)
        if known:
            raise Refused(Reason.BAD_CREDENTIALS, "wrong password, user name or client id")
        if user or self._anonymous is None:
            raise Refused(Reason.NOT_AUTHORIZED, "no device has these credentials")
        return self._anonymous


class CredentialsFile:
    """Credentials, as long as their file says so.

    is_needed  raise ConfigError if there is none
    """

    def __init__(self, path: Path, *, anonymous: str = "") -> None:
        self.path = path
        self._anonymous = anonymous
        self._seen = _stamp(path)
        self.current = self._read()

    def refresh(self) -> bool:
        """Read the file again if it changed; returns whether credentials may be other ones now."""
        stamp = _stamp(self.path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.current = self._read()
        except ConfigError as error:
            log.error("devices stay as they were: %s", error)
            return False
        log.info("devices read again: file=%s devices=%d", self.path, len(self.current.names))
        return True

    def _read(self) -> Credentials:
        file = str(self.path)
        if self._anonymous and not self.path.exists():
            return Credentials(file=file, anonymous=self._anonymous)
        found = toml.convert(toml.read(self.path), DevicesFile, file=file)
        return Credentials(found.device, file=file, anonymous=self._anonymous)


def is_readable_by_others(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & READABLE_BY_OTHERS)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _device(one: DeviceSettings) -> Device:
    return Device(one.name, is_gateway=one.gateway)


def _digest(token: str) -> bytes:
    # So that how long a look takes says nothing of a token.
    return hashlib.sha256(token.encode()).digest()


def _shows(connect: Connect, one: DeviceSettings) -> bool:
    if one.client_id and one.client_id != connect.client_id:
        return False
    if not one.password:
        return True
    return hmac.compare_digest(connect.password or b"", one.password.encode())
