"""Which fields are secret, hidden wherever records, events or requests are shown.   [sans-IO]

A hash of a secret is as secret: a short one is guessed in peace by whoever has its hash. Records
keep what they have, for those who act on them; a certificate and its fingerprint are public.
"""

import re
from typing import Any, Final

import msgspec

# Without `_`, `-` and case: accessToken is access_token.
SECRET: Final = frozenset((
    "password", "oldpassword", "newpassword", "passwordsha256", "passphrase",
    "token", "accesstoken", "refreshtoken", "tokensha256",
    "secret", "secretsha256", "secretkey", "privatekey", "apikey",
    "provisiondevicesecret", "credentialsvalue",
))  # fmt: skip
# A digest beside its salt is that of a secret (`entities/claims.py`).
SALTED: Final = frozenset(("digest", "salt"))
HIDDEN: Final = "(secret)"
# A field within text: JSON that is cut short, or that is in a string of other JSON.
_FIELD: Final = re.compile(r'("([\w-]{1,40})\\*"\s*:\s*\\*")([^"\\]+)')


def is_secret(name: str) -> bool:
    return name.replace("_", "").replace("-", "").lower() in SECRET


def hidden(value: Any) -> Any:
    """Return JSON with each secret in it replaced by HIDDEN, however deep; empty ones are shown."""
    if isinstance(value, dict):
        secrets = {name for name in value if is_secret(str(name))}
        secrets |= {"digest"} if value.keys() >= SALTED else set()
        return {
            name: HIDDEN if name in secrets and one not in (None, "") else hidden(one)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [hidden(one) for one in value]
    return hidden_text(value) if isinstance(value, str) else value


def hidden_text(text: str) -> str:
    """Return text without the secrets in what looks like fields of JSON."""
    return _FIELD.sub(_without_secret, text) if '"' in text else text


def hidden_bytes(body: bytes) -> bytes:
    """Return a body, JSON or not, without its secrets; the same bytes if it has none."""
    try:
        found = msgspec.json.decode(body)
        shown = hidden(found)
    except (ValueError, RecursionError):
        return hidden_text(body.decode("latin-1")).encode("latin-1")
    # msgspec turns whole numbers beyond 64 bits into floats, so it can also write them.
    return body if shown == found else msgspec.json.encode(shown)


def _without_secret(field: re.Match[str]) -> str:
    return field[1] + HIDDEN if is_secret(field[2]) else field[0]
