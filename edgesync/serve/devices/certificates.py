"""Certificates by which devices are known: how they are written down.   [sans-IO]

TLS proves that a client has the key of the certificate that it shows. Which device that is, is
decided by nothing in the certificate but by its SHA-256: a name in it is what anybody may write.
"""

import base64
import functools
import hashlib
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

CERTIFICATE_CHARS_MAX: Final = 16 << 10
# OpenSSL sorts what it trusts with each one that is added: 500 take a second, 5,000 minutes.
CERTIFICATES_MAX: Final = 500
PARSED_MAX: Final = 2 * CERTIFICATES_MAX
PRIVATE_KEY: Final = "PRIVATE KEY"
BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.S)
ARMOUR: Final = "-----BEGIN"
FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
SEQUENCE: Final = 0x30


class BadCertificate(ValueError):
    """Text that is no certificate, or not a device's alone; says nothing of what it holds."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def read_certificate(text: str) -> bytes:
    """Return the one certificate of a text in PEM, or in base64, as DER; raises BadCertificate."""
    if PRIVATE_KEY in text:
        raise BadCertificate(
            "holds a private key, which no one but the device may have",
            "give the certificate alone; a key that others have read is to be made anew",
        )
    if len(text) > CERTIFICATE_CHARS_MAX:
        raise BadCertificate(
            f"is longer than {CERTIFICATE_CHARS_MAX} characters", "give one certificate alone"
        )
    blocks = BLOCK.findall(text)
    if len(blocks) > 1:
        raise BadCertificate(
            f"holds {len(blocks)} certificates",
            "give the device's own, without those that signed it",
        )
    body = blocks[0] if blocks else "" if ARMOUR in text else text
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        der = b""
    if not (_is_one_sequence(der) and _is_certificate(der)):
        raise BadCertificate(
            "is no certificate in PEM format",
            "give all from its BEGIN to its END line; `openssl x509 -inform DER` makes PEM of DER",
        )
    return der


def read_fingerprint(text: str) -> bytes:
    """Return the SHA-256 that hexadecimal digits, or pairs of them with colons, say."""
    digits = text.replace(":", "").lower()
    if not FINGERPRINT.fullmatch(digits):
        raise BadCertificate(
            "is no SHA-256 in 64 hexadecimal digits",
            "`openssl x509 -noout -fingerprint -sha256 -in device.crt` prints it",
        )
    return bytes.fromhex(digits)


def digest_of(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()


def body_of(der: bytes) -> str:
    """Return a certificate as ThingsBoard keeps it: base64, without the lines around it."""
    return base64.b64encode(der).decode()


def validity_problem(decoded: Mapping[str, Any], now_s: float) -> str:
    """Return why a certificate does not hold now, "" if it does.

    decoded   as SSLSocket.getpeercert() gives it
    """
    try:
        begin_s = ssl.cert_time_to_seconds(decoded["notBefore"])
        end_s = ssl.cert_time_to_seconds(decoded["notAfter"])
    except (KeyError, TypeError, ValueError):
        return "certificate: its validity cannot be read"
    if now_s > end_s:
        return f"certificate: expired at {decoded['notAfter']}"
    if now_s < begin_s:
        return f"certificate: not valid before {decoded['notBefore']}, by the edge's clock"
    return ""


def _is_one_sequence(der: bytes) -> bool:
    """Return whether nothing follows the outermost element: its digest is a certificate's."""
    if len(der) < 2 or der[0] != SEQUENCE:
        return False
    size, head = der[1], 2
    if size & 0x80:
        head += size & 0x7F
        size = int.from_bytes(der[2:head], "big")
    return head + size == len(der)


@functools.lru_cache(maxsize=PARSED_MAX)
def _is_certificate(der: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True
