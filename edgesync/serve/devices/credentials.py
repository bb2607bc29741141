"""Credentials of devices: the file with access tokens, users and passwords, certificates.

Beside it there is one of the same form, which the edge writes, of devices that were provisioned.
Both are read again when they change; one that cannot be read changes nothing, as the log says.
"""

import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edgesync import toml
from edgesync.errors import ConfigError
from edgesync.serve.devices.certificates import (
    CERTIFICATES_MAX,
    BadCertificate,
    digest_of,
    read_certificate,
    read_fingerprint,
)
from edgesync.serve.devices.thingsboard import PROVISION, PROVISIONING, Device, Refused
from edgesync.serve.followed import FollowedFiles
from edgesync.serve.mqtt.packets import Connect, Reason

log = logging.getLogger(__name__)

READABLE_BY_OTHERS: Final = 0o077
# In the folder of the data: that of the settings may be read-only.
PROVISIONED_FILE: Final = "mqtt-provisioned.toml"
PROVISIONED_MAX: Final = 10_000


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device: an access token, sent as user name, or its hash; or what of the next three is
    said; or a certificate or its fingerprint.

    certificate     in PEM, which TLS lets in because it is here
    fingerprint     SHA-256 of one that `[mqtt] client_ca` has signed
    token_sha256    the hash of its token, where nobody here knows the token itself
    gateway         it may speak for other devices
    provisioned_by  the provision key that it showed, if it did
    """

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    token: str = ""
    token_sha256: Annotated[
        str, Meta(pattern="^([0-9a-f]{64})?$", description="the token's SHA-256, 64 hex digits")
    ] = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""
    fingerprint: str = ""
    gateway: bool = False
    provisioned_by: str = ""

    def __repr__(self) -> str:
        return f"DeviceSettings({self.name!r})"  # without what is secret


class ProvisionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that show this key and secret may make themselves credentials.

    names    those devices only, each once; any, if empty
    max      devices that it makes
    gateway  gateways, too
    """

    key: Annotated[str, Meta(min_length=1, max_length=255)]
    secret: Annotated[str, Meta(min_length=8, max_length=255)]
    names: tuple[str, ...] = ()
    max: Annotated[int, Meta(ge=1, le=PROVISIONED_MAX)] = 100
    gateway: bool = False

    def __repr__(self) -> str:
        return f"ProvisionSettings({self.key!r})"


class DevicesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    device: tuple[DeviceSettings, ...] = ()
    provision: tuple[ProvisionSettings, ...] = ()


class Credentials:
    """The devices of a file; raises ConfigError for those nobody could be.

    provisioned    devices that were provisioned, but for those that the file names, too
    certificates   in DER, by their digests: those that are trusted because they are here
    """

    def __init__(
        self,
        settings: Sequence[DeviceSettings] = (),
        *,
        file: str,
        anonymous: str = "",
        provisions: Sequence[ProvisionSettings] = (),
        provisioned: Sequence[DeviceSettings] = (),
    ) -> None:
        self._settings, self._file = settings, file
        self._anonymous = Device(anonymous, is_anonymous=True) if anonymous else None
        self._tokens: dict[bytes, Device] = {}
        self._users: dict[str, list[DeviceSettings]] = {}
        self._client_ids: dict[str, list[DeviceSettings]] = {}
        self._fingerprints: dict[bytes, Device] = {}
        self.certificates: dict[bytes, bytes] = {}
        named = {one.name for one in settings}
        self.provisioned = [one for one in provisioned if one.name not in named]
        self.provisioned_names = {one.name for one in self.provisioned}
        self.names = named | self.provisioned_names
        found = [_device(one) for one in (*settings, *self.provisioned)]
        self.devices, self._by_name = set(found), {one.name: one for one in reversed(found)}
        if self._anonymous is not None:
            self.devices.add(self._anonymous)
            self._by_name.setdefault(anonymous, self._anonymous)
        self.provisions = {one.key: one for one in provisions}
        if self.provisions:
            self.devices.add(PROVISIONING)
            self._by_name[PROVISIONING.name] = PROVISIONING
        if len(self.provisions) < len(provisions):
            raise ConfigError(
                file=file, field="provision.key", problem="two have the same key",
                remedy="give each one of its own",
            )  # fmt: skip
        for index, one in enumerate(settings):
            if problem := self._add(one):
                raise ConfigError(file=file, field=f"device[{index}] ({one.name})", **problem)
        for one in self.provisioned:
            if problem := self._add(one):
                if one.token_sha256:  # what the hub says locks out nobody else
                    log.error("device %s is not let in: %s", one.name, problem["problem"])
                    continue
                field = f"({one.name}, which was provisioned)"
                raise ConfigError(file=file, field=field, **problem)

    def with_provisioned(self, one: DeviceSettings) -> "Credentials":
        """Return these and those of one more device; raises ConfigError."""
        return Credentials(
            self._settings, file=self._file,
            anonymous=self._anonymous.name if self._anonymous is not None else "",
            provisions=tuple(self.provisions.values()), provisioned=[*self.provisioned, one],
        )  # fmt: skip

    def _add(self, one: DeviceSettings) -> Mapping[str, str] | None:
        alone = {
            "token": one.token, "token_sha256": one.token_sha256, "certificate": one.certificate,
            "fingerprint": one.fingerprint,
        }  # fmt: skip
        said = next((field for field, value in alone.items() if value), "")
        others = one.client_id, one.username, one.password
        if said and sum(map(bool, (*alone.values(), *others))) > 1:
            return {
                "problem": f"has a {said} and something else",
                "remedy": "write two entries of that name",
            }
        if one.token or one.token_sha256:
            digest = _digest(one.token) if one.token else bytes.fromhex(one.token_sha256)
            if digest in self._tokens:
                return {
                    "problem": f"has the token of {self._tokens[digest].name}",
                    "remedy": "give each device one of its own",
                }
            self._tokens[digest] = _device(one)
        elif one.certificate or one.fingerprint:
            return self._add_certificate(one)
        elif one.username:
            self._users.setdefault(one.username, []).append(one)
        elif one.client_id:
            self._client_ids.setdefault(one.client_id, []).append(one)
        else:
            return {
                "problem": "has no credentials",
                "remedy": "add token, username, client_id or certificate",
            }
        return None

    def _add_certificate(self, one: DeviceSettings) -> Mapping[str, str] | None:
        field = "certificate" if one.certificate else "fingerprint"
        try:
            if one.certificate:
                der = read_certificate(one.certificate)
                digest = digest_of(der)
                self.certificates[digest] = der
            else:
                digest = read_fingerprint(one.fingerprint)
        except BadCertificate as error:
            return {"problem": f"{field} {error}", "remedy": error.remedy}
        if digest in self._fingerprints:
            return {
                "problem": f"has the certificate of {self._fingerprints[digest].name}",
                "remedy": "give each device one of its own",
            }
        if len(self.certificates) > CERTIFICATES_MAX:
            return {
                "problem": f"is one of more than {CERTIFICATES_MAX} with a certificate",
                "remedy": "name who signed them as [mqtt] client_ca, and give fingerprints instead",
            }
        self._fingerprints[digest] = _device(one)
        return None

    def of_name(self, name: str) -> Device | None:
        """Return the device of a name, the first of several."""
        return self._by_name.get(name)

    def of_token(self, token: str) -> Device | None:
        return self._tokens.get(_digest(token))

    def of_certificate(self, digest: bytes) -> Device | None:
        return self._fingerprints.get(digest)

    @property
    def has_fingerprints(self) -> bool:
        """True if there are devices whose certificate is known by its fingerprint alone."""
        return len(self._fingerprints) > len(self.certificates)

    def is_taken(self, name: str) -> bool:
        """Return whether a user name or token is in use."""
        return name == PROVISION or name in self._users or self.of_token(name) is not None

    def identify(self, connect: Connect, certificate: bytes | None = None) -> Device:
        """Return whose credentials a client shows; raises Refused.

        certificate   digest of the one that it has shown; then nothing else counts
        """
        if certificate is not None:
            if (device := self.of_certificate(certificate)) is None:
                raise Refused(Reason.NOT_AUTHORIZED, "no device has this certificate")
            return device
        user = connect.username or ""
        if user:
            if (device := self.of_token(user)) is not None:
                return device
            if user == PROVISION and self.provisions:
                return PROVISIONING
            known = self._users.get(user, [])
        else:
            known = self._client_ids.get(connect.client_id, [])
        for one in known:
            if _shows(connect, one):
                return _device(one)
        if not user and connect.client_id == PROVISION and self.provisions:
            return PROVISIONING
        if known:
            raise Refused(Reason.BAD_CREDENTIALS, "wrong password, user name or client id")
        if user or self._anonymous is None:
            raise Refused(Reason.NOT_AUTHORIZED, "no device has these credentials")
        return self._anonymous


class CredentialsFile(FollowedFiles[Credentials]):
    """Credentials, as long as their files say so.

    folder  of the file with devices that were provisioned
    """

    what = "devices"

    def __init__(self, path: Path, folder: Path, *, anonymous: str = "") -> None:
        self.path = path
        self.provisioned_path = folder / PROVISIONED_FILE
        self._anonymous = anonymous
        super().__init__()

    @property
    def files(self) -> Sequence[Path]:
        return self.path, self.provisioned_path

    def read(self) -> Credentials:
        file, made = str(self.path), DevicesFile()
        if self.provisioned_path.exists():
            made = read_devices(self.provisioned_path)
        found = DevicesFile()
        if not self._anonymous or self.path.exists():
            found = read_devices(self.path)
        return Credentials(
            found.device, file=file, anonymous=self._anonymous, provisions=found.provision,
            provisioned=made.device,
        )  # fmt: skip


def shown_by(connect: Connect) -> bytes:
    """Return what a client shows without a certificate; the same bytes for the same attempt."""
    # Many make up a client id each time; where there is no password it may be the secret.
    client_id = "" if connect.password else connect.client_id
    return repr((connect.username, connect.password, client_id)).encode(errors="replace")


def read_devices(path: Path) -> DevicesFile:
    remedy = "write one, a [[device]] with a token; docs/mqtt.md shows what may be in it"
    return toml.convert(toml.read(path, remedy), DevicesFile, file=str(path))


def is_readable_by_others(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & READABLE_BY_OTHERS)


def _device(one: DeviceSettings) -> Device:
    shown = one.token, one.client_id, one.username, one.password, one.certificate, one.fingerprint
    # Python's hashes of texts are keyed, and so say nothing of a secret.
    return Device(one.name, is_gateway=one.gateway, proof=hash(shown))


def _digest(token: str) -> bytes:
    # So that how long a look takes says nothing of a token.
    return hashlib.sha256(token.encode()).digest()


def _shows(connect: Connect, one: DeviceSettings) -> bool:
    if one.client_id and one.client_id != connect.client_id:
        return False
    if not one.password:
        return True
    return hmac.compare_digest(connect.password or b"", one.password.encode())
