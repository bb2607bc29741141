"""TLS of the door: its own certificate, and the ones it takes from devices."""

import ssl
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from edgesync.serve.devices.certificates import CERTIFICATES_MAX
from edgesync.serve.mqtt.settings import MqttSection
from edgesync.serve.tls import DoorTls

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` has no name for.
NO_CHECK_TIME: Final = 0x200000
# Certificates that were taken back stay, until there are as many of them.
TRUSTED_MAX: Final = 2 * CERTIFICATES_MAX


class MqttTls(DoorTls):
    """Asks clients for a certificate if a device may have one.

    The handshake proves that a client has the key, and that the certificate is one of those given
    to `trust` or signed by `client_ca`; the door decides whose it is, at each CONNECT. So it does
    no harm to trust one that a device had before, and validity is told by a CONNACK. The times of
    those in between only the handshake sees: with `client_ca` it looks at all times.
    """

    def __init__(self, section: MqttSection, folder: Path) -> None:
        self._client_ca = folder / section.client_ca if section.client_ca else None
        self._trusted: set[bytes] = set()
        self._certificates: Mapping[bytes, bytes] = {}
        super().__init__(section, "mqtt", folder)

    @property
    def files(self) -> Sequence[Path]:
        return [*super().files, *([self._client_ca] if self._client_ca else [])]

    def trust(self, certificates: Mapping[bytes, bytes]) -> None:
        """Let clients come that show one of `certificates`: DER, by digest."""
        if certificates is self._certificates:
            return
        self._certificates = certificates
        new = certificates.keys() - self._trusted
        if len(self._trusted) + len(new) > TRUSTED_MAX:
            self.current = self.read()
            return
        _trust(self.current, certificates, new)
        self._trusted |= new

    def read(self) -> ssl.SSLContext:
        context = super().read()
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self._client_ca is None:
            context.verify_flags |= NO_CHECK_TIME
        else:
            self.expect_file("client_ca", self._client_ca)
            try:
                context.load_verify_locations(cafile=self._client_ca)
            except (OSError, ssl.SSLError) as error:
                remedy = "give certificates in PEM format"
                raise self.unusable("client_ca", error, remedy) from error
            context.verify_mode = ssl.CERT_OPTIONAL
        _trust(context, self._certificates, self._certificates.keys())
        self._trusted = set(self._certificates)
        return context


def _trust(
    context: ssl.SSLContext, certificates: Mapping[bytes, bytes], digests: Collection[bytes]
) -> None:
    if digests:
        context.load_verify_locations(cadata=b"".join(certificates[one] for one in digests))
        context.verify_mode = ssl.CERT_OPTIONAL
