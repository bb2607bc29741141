"""Devices that may be claimed by whoever knows a secret: what is kept of that.   [sans-IO]

A device offers itself for some time; the offer is its server attribute `claim`, with a digest of
the secret. Who claims it at the hub takes the offer's place with the attribute `claimed`.
"""

import hashlib
import hmac
from typing import Any, Final

from edgesync.errors import EntityError

OFFER, CLAIMED = "claim", "claimed"
SECRET_CHARS_MAX: Final = 255
# What ThingsBoard takes if a device says nothing.
DURATION_MS: Final = 86_400_000
DURATION_MS_MAX: Final = 30 * 86_400_000


def offer(secret: str, until_ms: int, salt: str) -> dict[str, Any]:
    """Return the attribute of a device that may be claimed up to then."""
    return {"digest": _digest(secret, salt), "salt": salt, "until_ms": until_ms}


def claim(held: Any, claimed: Any, secret: str, by: str, now_ms: int) -> dict[str, Any]:
    """Return the attribute of a device that is claimed with `secret`.

    held, claimed   attributes that it has, or None. Raises EntityError.
    """
    if isinstance(claimed, dict):
        raise EntityError(
            "entity", f"is claimed already, by {str(claimed.get('by'))[:100]!r}",
            remedy=f"remove its server attribute {CLAIMED!r}; the device then offers itself anew",
        )  # fmt: skip
    # Whoever guesses is not told which of it was wrong.
    offered = held if isinstance(held, dict) else {}
    until_ms = offered.get("until_ms")
    digest = _digest(secret, str(offered.get("salt")))
    is_known = hmac.compare_digest(digest.encode(), str(offered.get("digest")).encode())
    if not is_known or type(until_ms) is not int or now_ms >= until_ms:
        raise EntityError(
            "secret", "no device of this name may be claimed with it now",
            remedy="let the device offer itself, on v1/devices/me/claim",
        )  # fmt: skip
    return {"by": by, "at_ms": now_ms}


def _digest(secret: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()
