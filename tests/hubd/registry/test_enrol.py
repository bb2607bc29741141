"""Enrolment over HTTP: credentials of its own, the guard's headers, and a limit to guessing."""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from edgesync.serve.failed_attempts import KEYS_MAX, FailedAttempts, network_of
from edgesync_transport.keys import decode_token, new_key_pair
from hubd.api import ApiSettings, Context, make_app
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.edge_service import EdgeService
from hubd.errors import EnrolRefused, OwnedBusy
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.registry import DEFAULT_TENANT, Registry, open_registry
from hubd.registry.enrol import (
    ATTEMPTS_MAX,
    ATTEMPTS_WINDOW_S,
    BODY_BYTES_MAX,
    PATH,
    Enrolment,
    EnrolRequest,
    enrol_route,
    token_maker,
)
from hubd.settings import HubSettings, Settings
from hubd.state import open_state
from tests.hubd.keys import open_answers
from tests.hubd.still import StillHub

pytestmark = pytest.mark.feature("S6")

SERVER_KEY = new_key_pair().public
SETTINGS = Settings(
    hub=HubSettings(public="tcp://hub.example:7400", public_url="https://hub.example"),
    api=ApiSettings(host="0.0.0.0", token_sha256=("0" * 64,)),
)


@pytest.fixture
def registry(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url, busy_s=0.01)) as found:
        yield found


@pytest.fixture
def client(registry: Registry, tmp_path: Path) -> Iterator[TestClient]:
    live = Live()
    state = open_state(tmp_path / "state.db", b"g" * 16)
    with closing(state), open_answers(tmp_path / "cells") as answers:
        context = Context(
            hub=StillHub([]), state=state, live=live, projectors=Projectors(live), answers=answers,
            settings=SETTINGS.api, version="0",
        )  # fmt: skip
        route = enrol_route(Enrolment(registry, SETTINGS, server_key=SERVER_KEY))
        app = make_app(context, open_routes=[route])
        with TestClient(app, backend="trio", base_url="https://hub.example") as found:
            yield found


def body(registry: Registry, **changes: str) -> dict[str, Any]:
    invitation = registry.enrolments.invite("barn", tenant="default", valid_s=900, again=True)
    token = decode_token(token_maker(SETTINGS, server_key=SERVER_KEY)(invitation))
    assert (token.edge, token.address) == ("barn", "tcp://hub.example:7400")
    return {
        "routing_key": token.routing_key,
        "secret": token.secret,
        "public_key": new_key_pair().public,
        **changes,
    }


def test_a_token_is_enough_where_the_api_wants_one_of_its_own(
    client: TestClient, registry: Registry
) -> None:
    assert client.get("/api/v1/edges").status_code == 401
    answer = client.post(PATH, json=body(registry))
    assert answer.status_code == 200
    assert answer.json() == {
        "edge": "barn", "address": "tcp://hub.example:7400", "server_key": SERVER_KEY,
    }  # fmt: skip
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert list(registry.edges.live_keys().values()) == ["barn"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b'{"routing_key": "x"}', 400),
        (b'{"routing_key": 1, "secret": 2, "public_key": 3}', 400),
        (b'{"routing_key":"' + b"x" * 256 + b'","secret":"y","public_key":"z"}', 400),
        (b" " * (BODY_BYTES_MAX + 1), 400),
        (b'{"routing_key":"x","secret":"y","public_key":"z","more":1}', 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(client: TestClient, raw: bytes, status: int) -> None:
    answer = client.post(PATH, content=raw)
    assert answer.status_code == status
    assert answer.json()["code"] == "bad_request"


def test_refusals_have_their_own_codes(client: TestClient, registry: Registry) -> None:
    assert client.post(PATH, json=body(registry, secret="x")).status_code == 403
    assert client.post(PATH, json=body(registry, public_key="x")).status_code == 422
    good = body(registry)
    client.post(PATH, json=good)
    other = {**good, "public_key": new_key_pair().public}
    assert client.post(PATH, json=other).status_code == 409
    assert client.get(PATH).status_code in (404, 405)


def test_guessing_is_told_to_stop_and_keeps_nobody_out(
    client: TestClient, registry: Registry
) -> None:
    wrong = {"routing_key": "x", "secret": "y", "public_key": new_key_pair().public}
    for _ in range(ATTEMPTS_MAX):
        assert client.post(PATH, json=wrong).status_code == 403
    answer = client.post(PATH, json=wrong)
    assert answer.status_code == 429
    assert "wait" in msgspec.json.decode(answer.content)["error"]
    # The whole site may come from that address, behind one proxy.
    used = body(registry)
    assert client.post(PATH, json=used).status_code == 200
    used["public_key"] = new_key_pair().public
    assert client.post(PATH, json=used).status_code == 409  # its holder is told why
    assert client.post(PATH, json=body(registry)).status_code == 200


def test_networks_that_guess_are_remembered_within_a_limit() -> None:
    attempts = FailedAttempts(ATTEMPTS_MAX, ATTEMPTS_WINDOW_S)
    for number in range(2 * KEYS_MAX):
        attempts.note(network_of(f"2001:db8:0:{number:x}::1"))
    assert len(attempts._failed) == KEYS_MAX
    for number in range(ATTEMPTS_MAX):
        assert not attempts.note(network_of(f"2001:db8::{number:x}"))
    assert attempts.note(network_of("2001:db8::ffff"))
    assert not attempts.note(network_of("2001:db8:0:1::ffff"))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_network_is_told_to_wait_for_a_minute() -> None:
    clock = Clock()
    attempts = FailedAttempts(ATTEMPTS_MAX, ATTEMPTS_WINDOW_S, clock)
    for _ in range(ATTEMPTS_MAX):
        assert not attempts.note("192.0.2.1")
        clock.now_s += 1
    assert attempts.note("192.0.2.1")
    # Only the newest attempts count, and each for a minute.
    clock.now_s = 1000.0 + 1 + ATTEMPTS_WINDOW_S - 0.5
    assert attempts.note("192.0.2.1")
    clock.now_s = 1000.0 + ATTEMPTS_MAX + ATTEMPTS_WINDOW_S
    assert not attempts.note("192.0.2.1")


def test_networks_that_were_quiet_longest_are_forgotten_first() -> None:
    clock = Clock()
    attempts = FailedAttempts(ATTEMPTS_MAX, ATTEMPTS_WINDOW_S, clock)
    for _ in range(ATTEMPTS_MAX):
        attempts.note("192.0.2.1")
        attempts.note("192.0.2.2")
    for nth in range(KEYS_MAX - 1):
        attempts.note("192.0.2.1")  # goes on guessing among all the others
        attempts.note(f"10.{nth // 256}.{nth % 256}.1")
    assert attempts.note("192.0.2.1")
    assert not attempts.note("192.0.2.2")


def test_a_registry_held_by_another_process_is_busy(
    client: TestClient, tmp_path: Path, owned_url: sa.URL | None
) -> None:
    with closing(open_registry(tmp_path, owned_url)) as other:
        asked = body(other)
        with other.owned.change():
            answer = client.post(PATH, json=asked)
            assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert client.post(PATH, json=asked).status_code == 200


async def test_an_edge_is_let_in_before_it_is_answered(registry: Registry) -> None:
    """It comes at once, and one that is refused takes its time to come again."""
    enrolment = Enrolment(registry, SETTINGS, server_key=SERVER_KEY)
    let_in = list[str]()

    async def look() -> None:
        let_in.extend(registry.edges.live_keys().values())
        raise OwnedBusy("registry.db")  # it is looked at again soon

    enrolment.on_enrolled = look
    asked = msgspec.convert(body(registry), EnrolRequest)
    assert (await enrolment.of_request(asked, "127.0.0.1")).edge == "barn"
    assert let_in == ["barn"]


async def test_where_no_edge_can_be_told_the_address_the_token_before_stays_good(
    registry: Registry,
) -> None:
    hub = Settings(hub=HubSettings(listen=("tcp://0.0.0.0:7400",)))
    service = EdgeService(
        registry, Delivery(Journal(registry.owned)), clock_ns=time.time_ns, valid_s=900,
        token_maker=partial(token_maker, hub, server_key=SERVER_KEY),
    )  # fmt: skip
    asked = body(registry)
    with pytest.raises(ValueError, match=r"hub\.public"):
        await service.invite("barn", DEFAULT_TENANT)
    public = asked.pop("public_key")
    assert registry.enrolments.redeem(**asked, public=public) == "barn"


async def test_a_token_is_not_used_up_where_no_edge_can_be_told_the_address(
    registry: Registry,
) -> None:
    settings = Settings(hub=HubSettings(listen=("tcp://0.0.0.0:7400",)))
    enrolment = Enrolment(registry, settings, server_key=SERVER_KEY)
    asked = msgspec.convert(body(registry), EnrolRequest)
    with pytest.raises(EnrolRefused, match=r"hub\.public") as raised:
        await enrolment.of_request(asked, "::1")
    assert raised.value.code == "no_address"
    question = msgspec.json.encode({"public_key": asked.public_key})
    answer = await enrolment.of_guest(asked.routing_key, question)
    assert msgspec.json.decode(answer)["code"] == "no_address"
    assert registry.edges.live_keys() == {}
