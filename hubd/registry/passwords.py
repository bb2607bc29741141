"""Passwords of users, as they are stored: hashed by scrypt, each with salt and cost of its own.

scrypt is in the standard library (OpenSSL's), among what OWASP recommends, and wants memory as well
as time: so no library has to be added for it.
"""

import base64
import hashlib
import hmac
import secrets
from typing import Final

from hubd.errors import UserRefused

PASSWORD_CHARS_MIN: Final = 10
PASSWORD_CHARS_MAX: Final = 200
# 32 MiB, and some 0.2 s of a small machine. OWASP gives these three for 32 MiB.
COST: Final = (1 << 15, 8, 3)
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32


def check_password(password: str) -> None:
    """Raise UserRefused for one that is too short, too long, or no text."""
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX or not password.strip():
        raise UserRefused(f"a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise UserRefused("a password is UTF-8 text") from None


def hash_password(password: str) -> str:
    """Return what is stored, `scrypt$n$r$p$salt$hash`; takes time and 32 MiB."""
    salt = secrets.token_bytes(SALT_BYTES)
    made = _scrypt(password, salt, COST)
    return "$".join(["scrypt", *map(str, COST), _text(salt), _text(made)])


def is_password(password: str, stored: str) -> bool:
    """Return whether `stored` was made of this password; takes as long as `hash_password`."""
    kind, n, r, p, salt, known = stored.split("$")
    if kind != "scrypt" or len(password) > PASSWORD_CHARS_MAX:
        return False
    made = _scrypt(password, base64.b64decode(salt), (int(n), int(r), int(p)))
    return hmac.compare_digest(made, base64.b64decode(known))


def _scrypt(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    data = password.encode(errors="surrogatepass")
    room = 128 * r * (n + p + 2)
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=room, dklen=HASH_BYTES)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Of nobody: whoever gives a name that there is not is let wait as long as for one that there is.
DECOY: Final = "$".join(
    ["scrypt", *map(str, COST), _text(bytes(SALT_BYTES)), _text(bytes(HASH_BYTES))]
)
