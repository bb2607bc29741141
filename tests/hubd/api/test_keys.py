"""The hub's keys over HTTP, from a real server on a real socket: read, written, refused."""

import asyncio
import base64
import functools
import hashlib
import math
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from random import Random
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native.resp import NullArray, Pairs
from edgesync.cells.commands import TABLE
from edgesync.errors import CommandError, StoreFull
from hubd.api import Context, keys, make_app
from hubd.api.params import make_cursor
from hubd.api.redis_json import plain, reply_of
from hubd.cells import budget
from hubd.cells.proposals import Run, decode
from hubd.client import HubClient
from hubd.errors import HubRefused, HubUnreachable
from tests.edgesync.serve.resp.requests import hostile_requests
from tests.hubd.serving import serve

pytestmark = pytest.mark.feature("L13")

COMMAND = "/api/v1/keys/command"
READER, WRITER = "es1.reader", "es1.writer"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def post(url: str, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with httpx2.AsyncClient() as client:
        sent = {"content-type": "application/json", **headers}
        return await client.post(url + COMMAND, content=content, headers=sent)


async def ask(url: str, path: str, **query: Any) -> Any:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{url}/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


# -- commands ------------------------------------------------------------------------------------


async def test_a_program_reads_and_writes_as_at_an_edge(hub: HubClient, context: Context) -> None:
    await hub.set("name", "barn", ttl_s=1000)
    assert await hub.get("name") == b"barn"
    assert await hub.get("nothing") is None
    assert await hub.incr("visits", 5) == 5
    assert await hub.incr("visits") == 6
    assert await hub.hset("till", {"apples": 3, b"\xff": b"\xfe\x00"}) == 2
    assert await hub.hgetall("till") == {b"apples": b"3", b"\xff": b"\xfe\x00"}
    assert await hub.hget("till", b"\xff") == b"\xfe\x00"
    assert await hub.hincrby("till", "apples", -1) == 2
    assert await hub.rpush("list", "b", "c") == 2
    assert await hub.lpush("list", "a") == 3
    assert await hub.lrange("list") == [b"a", b"b", b"c"]
    assert await hub.sadd("set", "x", b"\x80") == 2
    assert await hub.smembers("set") == {b"x", b"\x80"}
    assert await hub.command("ZADD", "z", "inf", "m", 1.5, "n") == 2
    assert await hub.command("ZSCORE", "z", "m") == math.inf
    assert await hub.command("ZRANGE", "z", 0, -1, "WITHSCORES") == [[b"n", 1.5], [b"m", math.inf]]
    assert await hub.delete("list", "nothing") == 1
    names = [name async for name in hub.scan()]
    assert names == [b"basket", b"name", b"price", b"set", b"till", b"visits", b"z"]
    assert [name async for name in hub.scan("se")] == [b"set"]


async def test_what_is_answered_is_in_the_log(hub: HubClient, context: Context) -> None:
    """I1: the keys are made of it, whatever becomes of their own files."""
    await hub.set("kept", "1")
    *_, entry = await context.answers.log.read(0)
    assert decode(entry) == Run(((b"SET", b"kept", b"1"),))


async def test_a_commit_that_is_refused_is_an_error_and_nothing_has_happened(
    hub: HubClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_batches: object) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=10)

    monkeypatch.setattr(context.answers.log, "append", full)
    with pytest.raises(HubRefused, match="nothing was stored") as caught:
        await hub.set("k", "v")
    assert caught.value.status == 503
    monkeypatch.undo()
    assert await hub.get("k") is None


async def test_several_are_carried_out_with_nothing_between_and_one_commit(
    hub: HubClient, context: Context
) -> None:
    before = context.answers.log.head
    replies = await hub.commands(
        ("SET", "a", 1), ("HGET", "a", "f"), ("INCR", "a"), ("NOSUCH",), ("GET", "a")
    )
    assert [replies[at] for at in (0, 2, 4)] == [b"OK", 2, b"2"]
    assert [str(replies[at]).split()[0] for at in (1, 3)] == ["WRONGTYPE", "ERR"]
    assert context.answers.log.head == before + 1
    assert await hub.commands() == []


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (["HGET", "price", "f"], "WRONGTYPE", "wrong kind of value"),
        (["INCR", "price", "1"], "ERR", "wrong number of arguments"),
        (["NOSUCH", "x"], "ERR", "unknown command"),
        (["FLUSHDB"], "ERR", "FLUSHDB YES"),
        (["SET", "k" * 501, "v"], "ERR", "501 bytes"),
        (["SET", "", "v"], "ERR", "0 bytes"),
        (["MSET", "a", "1", "", "2"], "ERR", "0 bytes"),
        (["SET", "k", "v" * ((1 << 20) + 1)], "ERR", "larger"),
        (["multi"], "ERR", "connection"),
        (["Subscribe", "x"], "ERR", "connection"),
        (["EDGE.SYNC"], "ERR", "no EDGE.SYNC"),
        (["edge", "status"], "ERR", "no EDGE"),
        (["SHUTDOWN"], "ERR", "no SHUTDOWN"),
        ([{"base64": "/w=="}], "ERR", "unknown command"),
    ],
)
async def test_a_command_that_is_refused_has_its_class(
    url: str, request_: list[Any], code: str, words: str
) -> None:
    answer = await post(url, {"command": request_})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (400, code, "command")
    assert words in problem["error"]
    assert problem["remedy"]
    async with HubClient(url) as hub:
        parts = [base64.b64decode(p["base64"]) if isinstance(p, dict) else p for p in request_]
        with pytest.raises(CommandError, match=code):
            await hub.command(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "command"),
        (b"{}", 400, "command"),
        (b"[]", 400, ""),
        (b"{", 400, "body"),
        (b"\xff", 400, "body"),
        ({"command": ["GET", "a"], "commands": []}, 400, "command"),
        ({"command": []}, 400, "command"),
        ({"command": "GET a"}, 400, "command"),
        ({"command": ["GET", None]}, 400, "command"),
        ({"command": ["GET", True]}, 400, "command"),
        ({"command": ["GET", ["a"]]}, 400, "command"),
        ({"command": ["GET", {"base64": "%"}]}, 400, "command"),
        ({"command": ["GET", {"base64": "YQ==", "more": 1}]}, 400, "command"),
        ({"commands": [["GET", "a"], []]}, 400, "commands"),
        ({"command": ["GET", "a"], "also": 1}, 400, "also"),
        ({"commands": [["PING"]] * 1001}, 413, "commands"),
        ({"command": ["DEL", *["k"] * 10_000]}, 413, "commands"),
        ({"command": ["SET", "k", "v" * (7 << 20)]}, 413, "body"),
    ],
)
async def test_a_body_that_is_wrong_is_told_what_is_wrong(
    url: str, body: Any, status: int, field: str
) -> None:
    answer = await post(url, body)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert answer.json()["remedy"]


async def test_replies_have_a_limit_and_what_writes_is_not_cut_off(
    hub: HubClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "REPLIES_BYTES_MAX", 300)
    monkeypatch.setattr(keys, "KEYS_LOOKED_AT_MAX", 5)
    await hub.rpush("list", *(["x" * 20] * 10))
    with pytest.raises(CommandError, match="TOOLARGE"):
        await hub.lrange("list")
    popped = await hub.commands(("LPOP", "list", 9), ("LPOP", "list", 1), ("LLEN", "list"))
    assert popped[0] == [b"x" * 20] * 9, "it is gone from the list, so it is given whole"
    assert all(isinstance(one, CommandError) for one in popped[1:])
    assert await hub.command("LLEN", "list") == 1, "what was refused has not happened"
    assert await hub.command("KEYS", "b*") == [b"basket"]
    await hub.command("MSET", *(part for n in range(5) for part in (f"n{n}", n)))
    with pytest.raises(CommandError, match="KEYS looks at all"):
        await hub.command("KEYS", "*")
    assert len([name async for name in hub.scan()]) == context.cells.space.keys == 8


async def test_hostile_numbers_hold_up_nobody(hub: HubClient, context: Context) -> None:
    await hub.hset("h", {"f": "v"})
    await hub.sadd("s", "m")
    for request in (("HRANDFIELD", "h", -3_000_000), ("SRANDMEMBER", "s", -(2**63))):
        with pytest.raises(CommandError, match="out of range"):
            await hub.command(*request)
    for some in batched(islice(hostile_requests(Random(1)), 0, None, 11), 500):
        tracemalloc.start()
        replies = await hub.commands(*some)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 64 << 20, "of 500 commands: requests, replies and the keys they change"
        for request_, reply in zip(some, replies, strict=True):
            assert "internal" not in str(reply), request_


async def test_patterns_with_many_stars_hold_up_nobody(hub: HubClient) -> None:
    await hub.set("a" * 500, "")
    assert await hub.command("KEYS", "a*" * 200 + "b") == []


def batched(requests: Iterable[list[bytes]], size: int) -> Iterator[list[list[bytes]]]:
    them = iter(requests)
    while some := list(islice(them, size)):
        yield some


# -- reading -------------------------------------------------------------------------------------


async def test_keys_come_in_pages(hub: HubClient, url: str) -> None:
    await hub.commands(*(("SET", f"k:{n:03}", n) for n in range(25)))
    await hub.commands(*(("DEL", f"k:{n:03}") for n in range(5, 10)))
    await hub.command("EXPIRE", "k:000", 1000)
    found: list[Any] = []
    after: str | None = ""
    while after is not None:
        page = await ask(url, "keys", prefix="k:", limit=4, **({"after": after} if after else {}))
        assert len(page["keys"]) <= 4
        found += page["keys"]
        after = page["next"]
    assert [one["key"] for one in found] == [f"k:{n:03}" for n in range(25) if not 5 <= n < 10]
    assert {one["type"] for one in found} == {"string"}
    assert found[0]["expires_ns"] > 1_700_000_000 * 10**9
    assert found[1]["expires_ns"] is None


async def test_each_type_has_its_value_in_pages(hub: HubClient, url: str) -> None:
    await hub.commands(
        ("SET", "s", b"\xff"),
        ("HSET", "h", "a", 1, "b", b"\xfe", "c", 3),
        ("RPUSH", "l", "x", "y", "x"),
        ("SADD", "m", "q", "p"),
        ("ZADD", "z", 2, "two", 1, "one", "-inf", "low"),
    )

    async def whole(key: str, limit: int) -> list[Any]:
        pages, after = [], ""
        while True:
            more = {"after": after} if after else {}
            page = await ask(url, f"keys/{key}", limit=limit, **more)
            pages.append(page["value"])
            if page["next"] is None:
                return pages
            after = page["next"]

    assert await whole("s", 1) == [{"base64": "/w=="}]
    assert await whole("h", 2) == [{"a": "1", "b": {"base64": "/g=="}}, {"c": "3"}]
    assert await whole("l", 2) == [["x", "y"], ["x"]]
    assert await whole("l", 3) == [["x", "y", "x"]]
    assert await whole("m", 1) == [["p"], ["q"]]
    assert await whole("z", 2) == [[["low", {"float": "-inf"}], ["one", 1.0]], [["two", 2.0]]]
    found = await ask(url, "keys/h")
    assert (found["type"], found["count"], found["strategy"]) == ("hash", 3, "crdt_merge")
    assert found["stored_bytes"] > 10


async def test_keys_with_any_bytes_can_be_asked_for(hub: HubClient, url: str) -> None:
    for key in (b"a/b//c", b"sp ace?&=%2F", b"command", b"\xff\xfe", "ключ".encode()):
        await hub.set(key, "v")
        name = base64.urlsafe_b64encode(key).decode().rstrip("=")
        found = await ask(url, f"keys/{name}", encoding="base64")
        assert reply_of(found["key"]) == key
        assert found["value"] == "v"
    assert (await ask(url, "keys/a/b//c"))["key"] == "a/b//c"
    assert (await ask(url, "keys/command"))["value"] == "v"
    assert (await ask(url, "keys/sp%20ace%3F%26=%252F"))["value"] == "v"


async def test_a_key_past_its_deadline_is_absent(hub: HubClient, url: str) -> None:
    await hub.set("soon", "v", ttl_s=0.001)
    await trio.sleep(0.01)
    assert "soon" not in [one["key"] for one in (await ask(url, "keys"))["keys"]]
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{url}/api/v1/keys/soon")).status_code == 404


async def test_a_key_that_changed_its_type_between_two_pages(hub: HubClient, url: str) -> None:
    await hub.hset("k", {"a": 1, "b": 2})
    cursor = (await ask(url, "keys/k", limit=1))["next"]
    await hub.commands(("DEL", "k"), ("SADD", "k", "m", "n"))
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{url}/api/v1/keys/k", params={"after": cursor})
    assert (answer.status_code, answer.json()["field"]) == (400, "after")


# -- who may -------------------------------------------------------------------------------------


async def test_a_token_that_may_read_cannot_write(context: Context, nursery: trio.Nursery) -> None:
    await nursery.start(context.answers.run)
    url = await serve(
        context, nursery, token_sha256=(digest(READER),), write_token_sha256=(digest(WRITER),)
    )
    async with HubClient(url, token=READER) as hub:
        assert await hub.hgetall("basket") == {b"apples": b"3"}
        assert len(await hub.conflicts()) == 1
        with pytest.raises(HubRefused, match="may read, not write") as caught:
            await hub.incr("n")
        assert caught.value.status == 403
        for attempt in (
            lambda: hub.commands(("GET", "a"), ("set", "a", 1)),
            lambda: hub.resolve(1),
            lambda: hub.retire("barn"),
        ):
            with pytest.raises(HubRefused, match="may read, not write"):
                await attempt()
    async with HubClient(url, token=WRITER) as hub:
        assert await hub.incr("n") == 1
        assert (await hub.resolve(1)).status == "resolved"
        await hub.retire("barn")
    for token in ("", "es1.other"):
        async with HubClient(url, token=token) as hub:
            with pytest.raises(HubRefused, match="a token is needed"):
                await hub.get("n")
            with pytest.raises(HubRefused, match="a token is needed"):
                await hub.incr("n")


def test_what_is_said_to_read_changes_nothing(context: Context) -> None:
    """A token that may only read is trusted with every command that is not marked as writing."""
    cells = context.cells
    cells.commit()
    some = [b"basket", b"price", b"0", b"1", b"x", b"-1", b"yes"]
    readers = {one.name: one for one in TABLE.values() if not one.writes}
    assert len(readers) > 40
    for name in readers:
        for size in range(5):
            for shift in range(len(some)):
                arguments = (some[shift:] + some[:shift])[:size]
                cells.run([name.encode(), *arguments])
                assert not cells.rows.is_changed, (name, arguments)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "OURS"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://hub.example"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"host": "evil.example"}, 421),
    ],
)
async def test_pages_from_elsewhere_cannot_write(
    context: Context, nursery: trio.Nursery, headers: dict[str, str], status: int
) -> None:
    await nursery.start(context.answers.run)
    url = await serve(context, nursery, allowed_hosts=("hub.example",))
    sent = {name: url if value == "OURS" else value for name, value in headers.items()}
    answer = await post(url, {"command": ["SET", "k", "v"]}, **sent)
    assert answer.status_code == status, answer.text
    assert (context.cells.ask("GET", ["k"]) == b"v") == (status == 200)


async def test_nobody_there_is_told_apart_from_no(nursery: trio.Nursery) -> None:
    async with HubClient("http://127.0.0.1:9") as hub:
        with pytest.raises(HubUnreachable, match="no answer from http"):
            await hub.get("k")
    async with HubClient("not a url") as hub:
        with pytest.raises(HubUnreachable):
            await hub.get("k")


async def test_a_program_under_asyncio_does_the_same(url: str) -> None:
    async def program() -> tuple[int, object]:
        async with HubClient(url) as hub:
            return await hub.incr("n"), await hub.get("n")

    assert await trio.to_thread.run_sync(asyncio.run, program()) == (1, b"1")


@pytest.mark.parametrize("body", [b"<html>", b'{"reply": {"pairs": [1]}}'])
async def test_what_is_no_hub_is_told_apart_from_one(nursery: trio.Nursery, body: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    serve_any = functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve_any)
    port = listener.socket.getsockname()[1]
    async with HubClient(f"http://127.0.0.1:{port}") as hub:
        with pytest.raises(HubUnreachable, match="that is no hub"):
            await hub.get("k")


# -- the form of JSON ----------------------------------------------------------------------------

NAMES = st.sampled_from([b"base64", b"float", b"pairs", b"a", b"\xff"]) | st.binary(max_size=4)
SCALARS = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | NAMES
REPLIES = st.recursive(
    SCALARS, lambda some: st.lists(some, max_size=4) | st.dictionaries(NAMES, some, max_size=3)
)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # nan, and 1 beside 1.0


@given(REPLIES)
def test_every_reply_comes_back_from_json_as_it_was(reply: Any) -> None:
    text = msgspec.json.encode(plain(reply))
    assert same(reply_of(msgspec.json.decode(text)), reply)


def test_what_json_does_not_know_has_a_form() -> None:
    assert plain({b"b", b"a"}) == ["a", "b"]
    assert plain(Pairs([(b"m", 1.0)])) == [["m", 1.0]]
    assert plain(NullArray) is None
    assert plain({b"base64": b"eA=="}) == {"pairs": [["base64", "eA=="]]}
    assert plain({b"base64": 1, b"x": 2}) == {"base64": 1, "x": 2}
    with pytest.raises(TypeError):
        plain(object())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: (
        st.lists(some, max_size=4)
        | st.dictionaries(st.sampled_from(["base64", "command", "commands", "x"]), some, max_size=3)
    ),
    max_leaves=8,
)
ARGUMENTS = st.lists(
    st.text(max_size=4) | st.integers() | st.binary(max_size=4).map(lambda b: {"base64": b}),
    min_size=1, max_size=5,
)  # fmt: skip
NAMED = st.tuples(st.sampled_from(sorted({one.name for one in TABLE.values()})), ARGUMENTS)
REQUESTS = NAMED.map(lambda one: [one[0], *one[1]]) | ARGUMENTS


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON | REQUESTS.map(lambda r: {"command": r})
       | st.lists(REQUESTS, max_size=3).map(lambda r: {"commands": r}))  # fmt: skip
def test_random_bodies_never_break_the_hub(context: Context, body: Any) -> None:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(make_app(context))
        content = msgspec.json.encode(body)
        async with trio.open_nursery() as nursery:
            await nursery.start(context.answers.run)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
                answer = await http.post(
                    COMMAND, content=content, headers={"content-type": "application/json"}
                )
            nursery.cancel_scope.cancel()
        return answer

    answer = trio.run(ask)
    assert answer.status_code in (200, 400), answer.text
    found = msgspec.json.decode(answer.content)
    if answer.status_code == 200:
        for one in [found] if "reply" in found else found["replies"]:
            reply_of(one.get("reply"))


# -- changes -------------------------------------------------------------------------------------


async def test_changes_are_followed_from_a_place_and_waited_for(
    hub: HubClient, context: Context, url: str
) -> None:
    begun = (await ask(url, "keys/changes"))["next"]
    assert (await ask(url, "keys/changes", after=begun))["changes"] == []
    await hub.set("price:milk", 1)
    await hub.set("other", 1)
    await hub.set("price:tea", 1)
    await hub.set("price:milk", 2)
    await hub.delete("price:tea")
    found = await ask(url, "keys/changes", after=begun, prefix="price:")
    assert [(one["key"], one["type"]) for one in found["changes"]] == [
        ("price:milk", "string"), ("price:tea", None),
    ]  # fmt: skip
    page = await ask(url, "keys/changes", after=begun, limit=1)
    assert [one["key"] for one in page["changes"]] == ["other"]
    rest = await ask(url, "keys/changes", after=page["changes"][0]["after"])
    assert [one["key"] for one in rest["changes"]] == ["price:milk", "price:tea"]
    assert (await ask(url, "keys/changes", after=rest["next"]))["changes"] == []
    assert (await ask(url, "keys/changes", after=rest["next"], prefix="zzz"))["next"]


async def test_a_client_hears_of_changes_as_they_come(hub: HubClient) -> None:
    heard: list[tuple[bytes, str | None]] = []
    first = trio.Event()

    async def listen() -> None:
        async with aclosing(hub.changes("q:")) as changes:
            async for key, kind, _ in changes:
                heard.append((key, kind))
                first.set()
                if key == b"q:last":
                    return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        while not first.is_set():
            await hub.incr("q:first")
            await trio.sleep(0.01)
        await hub.set("elsewhere", 1)
        await hub.hset("q:last", {"f": 1})
    assert heard[0] == (b"q:first", "string")
    assert heard[-1] == (b"q:last", "hash")


async def test_a_place_in_the_changes_of_another_keyspace_is_refused(url: str) -> None:
    async with httpx2.AsyncClient() as client:
        other = make_cursor(b"x" * 16, 5)
        answer = await client.get(f"{url}/api/v1/keys/changes", params={"after": other})
    assert answer.status_code == 410
    assert "begin without `after`" in answer.text


def test_a_token_as_the_documents_abridge_it_is_named() -> None:
    with pytest.raises(ValueError, match="token: it has letters of ASCII only"):
        HubClient("http://127.0.0.1:9", token="esapi.…")
