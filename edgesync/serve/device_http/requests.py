"""What a request of a device asks for, and what an answer says.   [sans-IO]

`/api/v1/TOKEN/…` is ThingsBoard's HTTP API for devices. A request means what a message on the topic
of the same name means, so that there is one place that knows what devices may say (thingsboard.py).
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import msgspec

from edgesync.serve.devices.thingsboard import DEVICE, PROVISION, PROVISION_REQUEST
from edgesync.serve.mqtt.packets import Reason

ROOT: Final = "/api/v1/"
# The id under which a request without one asks: each is answered before the next.
ONLY: Final = "1"
# What a device is told of a message that MQTT refuses for this reason.
STATUSES: Final[Mapping[Reason, HTTPStatus]] = {
    Reason.NOT_AUTHORIZED: HTTPStatus.FORBIDDEN,
    Reason.TOPIC_NAME_INVALID: HTTPStatus.NOT_FOUND,
    Reason.QUOTA_EXCEEDED: HTTPStatus.INSUFFICIENT_STORAGE,
}
PACKAGES: Final = {"firmware": "fw", "software": "sw"}
KEYS: Final = ("clientKeys", "sharedKeys")
# What devices are sent, if they wait for it.
UPDATES: Final = DEVICE + "attributes"
CALLS: Final = DEVICE + "rpc/request/+"
WAIT_S: Final = 20.0
WAIT_MAX_S: Final = 300.0
TIMEOUT_DIGITS_MAX: Final = 9
FIELDS_MAX: Final = 8


class Problem(Exception):
    """A request that is not taken: the status, and a sentence for whoever reads it."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        field: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.headers = status, message, field, headers

    def body(self) -> bytes:
        found: dict[str, object] = {"status": int(self.status), "message": self.message}
        if self.field:
            found["field"] = self.field
        return msgspec.json.encode(found)


class Asked(msgspec.Struct, frozen=True):
    """A request as a message: whose token, the topic, and the payload if it is not the body.

    waits_s   instead, how long to wait for what a subscriber to the topic would be sent next
    """

    token: str
    topic: str
    payload: bytes | None = None
    waits_s: float | None = None
    names: tuple[str, str] = ("", "")


def read_target(method: str, target: str) -> Asked:
    """Return what is asked; raises Problem."""
    path, _, query = target.partition("?")
    token, _, what = path.removeprefix(ROOT).partition("/")
    if (method, path) == ("POST", ROOT + PROVISION):
        return Asked("", PROVISION_REQUEST)
    if not path.startswith(ROOT) or not token:
        raise Problem(HTTPStatus.NOT_FOUND, f"devices are answered at {ROOT}TOKEN/telemetry")
    token = unquote(token)
    match method, what:
        case "POST", "telemetry" | "attributes" | "claim":
            return Asked(token, DEVICE + what)
        case "POST", "rpc":
            return Asked(token, f"{DEVICE}rpc/request/{ONLY}")
        case "GET", "attributes":
            return Asked(token, f"{DEVICE}attributes/request/{ONLY}", _keys(query))
        case "GET", "attributes/updates":
            return Asked(token, UPDATES, b"", _timeout_s(query))
        case "GET", "rpc":
            return Asked(token, CALLS, b"", _timeout_s(query))
        case "GET", "firmware" | "software":
            return _package(token, PACKAGES[what], query)
        case "POST", _ if what.startswith("rpc/"):
            return Asked(token, f"{DEVICE}rpc/response/{_number(what)}")
        case _, "telemetry" | "attributes" | "claim":
            allowed = "GET, POST" if what == "attributes" else "POST"
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED, f"{what} takes {allowed}",
                headers=(("Allow", allowed),),
            )  # fmt: skip
    raise Problem(
        HTTPStatus.NOT_FOUND,
        "there are telemetry, attributes, rpc, claim, firmware and software",
        field=what[:100],
    )


def _number(what: str) -> str:
    number = what.removeprefix("rpc/")
    if not (number.isascii() and number.isdigit()):
        raise Problem(HTTPStatus.NOT_FOUND, "the number of a call is missing", field=what[:100])
    return number


def _query(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, strict_parsing=bool(query), max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "is no query", field="query") from error


def _package(token: str, kind: str, query: str) -> Asked:
    given = _query(query)
    size, chunk = given.get("size", ""), given.get("chunk") or "0"
    return Asked(
        token, f"v2/{kind}/request/{ONLY}/chunk/{chunk}", size.encode(),
        names=(given.get("title", ""), given.get("version", "")),
    )  # fmt: skip


def _keys(query: str) -> bytes:
    """Return which attributes a query names, as a payload names them."""
    given = _query(query)
    return msgspec.json.encode({name: given[name] for name in KEYS if name in given})


def _timeout_s(query: str) -> float:
    """Return how long a device would wait; it says so in milliseconds."""
    said = _query(query).get("timeout", "")
    if not said:
        return WAIT_S
    if not (said.isascii() and said.isdigit() and len(said) <= TIMEOUT_DIGITS_MAX):
        raise Problem(HTTPStatus.BAD_REQUEST, "is no time in milliseconds", field="timeout")
    return min(int(said) / 1000, WAIT_MAX_S)
