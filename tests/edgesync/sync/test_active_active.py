"""What Redis Active-Active documents of writes that meet, between two edges and a hub.

Each script is lines of `who: command = reply`: edge 1, edge 2, the hub, or `all` of them. `sync`
lets everybody hear of everything; between two of them nobody hears of anybody.
"""

import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgesync import EdgeNode
from hubd.cells import HubCells
from tests.sites import Sites, settle

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.feature("L3", "L4")

SCRIPTS = {
    "string: the last write wins": """
        1: SET k a = OK
        sync
        1: SET k b = OK
        2: SET k c = OK
        sync
        all: GET k = c
    """,
    "string: an update beats a removal that had not seen it": """
        1: SET k Hello = OK
        sync
        1: APPEND k _There = 11
        2: DEL k = 1
        sync
        all: GET k = Hello_There
    """,
    "string: a removal and nothing beside it": """
        1: SET k a = OK
        sync
        2: DEL k = 1
        sync
        all: GET k = nil
        all: EXISTS k = 0
    """,
    "string: removed on one side, written anew on the other": """
        1: SET k a = OK
        sync
        1: DEL k = 1
        2: SET k b = OK
        sync
        all: GET k = b
    """,
    "counter: contributions add up": """
        1: INCRBY c 7 = 7
        2: INCRBY c 3 = 3
        sync
        all: GET c = 10
        1: DECRBY c 3 = 7
        2: INCRBY c 6 = 16
        sync
        all: GET c = 13
    """,
    "counter: a removal takes what it has seen": """
        1: INCRBY c 10 = 10
        sync
        1: DEL c = 1
        2: INCRBY c 10 = 20
        sync
        all: GET c = 10
    """,
    "counter: removed on both sides is removed once": """
        1: INCRBY c 10 = 10
        sync
        1: DEL c = 1
        2: DEL c = 1
        sync
        all: GET c = nil
        2: INCRBY c 4 = 4
        sync
        all: GET c = 4
    """,
    "counter: set beside an increment": """
        1: INCRBY c 1 = 1
        sync
        1: SET c 100 = OK
        2: INCRBY c 5 = 6
        sync
        all: GET c = 105
    """,
    "expiry: the longer one counts": """
        1: SET k v = OK
        sync
        1: EXPIRE k 10 = 1
        2: EXPIRE k 50 = 1
        sync
        all: TTL k = 40..50
    """,
    "expiry: PERSIST is the longest": """
        1: SET k v EX 100 = OK
        sync
        1: EXPIRE k 10 = 1
        2: PERSIST k = 1
        sync
        all: TTL k = -1
    """,
    "set: additions on both sides": """
        1: SADD s a = 1
        2: SADD s b = 1
        sync
        all: SMEMBERS s = {a b}
    """,
    "set: an addition beats a removal that had not seen it": """
        1: SADD s a b = 2
        sync
        1: SREM s a = 1
        2: SADD s a c = 1
        sync
        all: SMEMBERS s = {a b c}
    """,
    "set: a removal takes what it has seen": """
        1: SADD s a b = 2
        sync
        1: SADD s c = 1
        2: DEL s = 1
        sync
        all: SMEMBERS s = {c}
    """,
    "set: the same member removed on both sides": """
        1: SADD s a b = 2
        sync
        1: SREM s a = 1
        2: SREM s a = 1
        sync
        all: SMEMBERS s = {b}
    """,
    "hash: fields are apart": """
        1: HSET h f1 a = 1
        2: HSET h f2 b = 1
        sync
        all: HGETALL h = {f1:a f2:b}
    """,
    "hash: of one field the last write wins": """
        1: HSET h f a = 1
        2: HSET h f b = 1
        sync
        all: HGET h f = b
    """,
    "hash: an update beats a removal that had not seen it": """
        1: HSET h f a g x = 2
        sync
        1: HSET h f b = 0
        2: HDEL h f = 1
        sync
        all: HGETALL h = {f:b g:x}
    """,
    "hash: counters in fields add up": """
        1: HINCRBY h f 10 = 10
        2: HINCRBY h f 50 = 50
        sync
        all: HGET h f = 60
        1: HDEL h f = 1
        2: HINCRBY h f 10 = 70
        sync
        all: HGET h f = 10
    """,
    "list: both ends": """
        1: LPUSH l hello = 1
        sync
        2: RPUSH l world = 2
        sync
        all: LRANGE l 0 -1 = [hello world]
    """,
    "list: elements pushed apart are all there, in one order": """
        1: RPUSH l x = 1
        sync
        1: RPUSH l y = 2
        2: RPUSH l z = 2
        sync
        all: LRANGE l 0 -1 = [x y z]
    """,
    "list: a removal takes the elements it has seen": """
        1: LPUSH l x = 1
        sync
        1: DEL l = 1
        2: LPUSH l y = 2
        sync
        all: LRANGE l 0 -1 = [y]
    """,
    "list: two sites may pop the same element": """
        1: RPUSH l x y = 2
        sync
        1: LPOP l = x
        2: LPOP l = x
        sync
        all: LRANGE l 0 -1 = [y]
    """,
    "sorted set: of two scores the last write wins": """
        1: ZADD z 1.1 x = 1
        2: ZADD z 2.1 y = 1
        sync
        1: ZADD z 3.1 y = 0
        2: ZADD z 4.1 y = 0
        sync
        all: ZRANGE z 0 -1 WITHSCORES = [x 1.1 y 4.1]
    """,
    "sorted set: increments add up": """
        1: ZADD z 1.1 x = 1
        sync
        1: ZINCRBY z 1.0 x = 2.1
        2: ZINCRBY z 1.0 x = 2.1
        sync
        all: ZSCORE z x = 3.1
    """,
    "sorted set: what is added beside a removal is left": """
        1: ZADD z 4.1 x = 1
        sync
        1: ZREM z x = 1
        2: ZINCRBY z 2.0 x = 6.1
        sync
        all: ZRANGE z 0 -1 WITHSCORES = [x 2]
    """,
    "sorted set: a score beside a removal is left": """
        1: ZADD z 4.1 x = 1
        sync
        1: ZREM z x = 1
        2: ZADD z 2.5 x = 0
        sync
        all: ZSCORE z x = 2.5
    """,
    "the hub's clients are one more writer": """
        hub: INCRBY c 5 = 5
        1: INCRBY c 2 = 2
        sync
        all: GET c = 7
        hub: DEL c = 1
        2: INCRBY c 1 = 8
        sync
        all: GET c = 1
    """,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_as_documented(tmp_path: Path, script: str) -> None:
    now = 0

    def clock() -> int:
        """Return the time, a tick later with each look: who writes later has the later stamp."""
        nonlocal now
        now = max(time.time_ns(), now + 1_000_000)
        return now

    sites = Sites(tmp_path, wall_ns=clock)
    async with sites.node("1") as one, sites.node("2") as two:
        for cells in (one.cells, two.cells):
            assert cells.cursor.base == 0  # keys are kept the same once somebody uses them
        for is_first, stretch in stretches_of(script):
            if not is_first:
                async with sites.hub() as hub:
                    await settle(one, two)
                    play([line for line in stretch if line.startswith("all:")], one, two, hub)
            async with sites.hub(is_reachable=False) as hub:
                play([line for line in stretch if not line.startswith("all:")], one, two, hub)


def stretches_of(script: str) -> list[tuple[bool, list[str]]]:
    """The lines between `sync` and `sync`, and whether they are the first."""
    lines = [line.strip() for line in script.splitlines() if line.strip()]
    stretches: list[list[str]] = [[]]
    for line in lines:
        if line == "sync":
            stretches.append([])
        else:
            stretches[-1].append(line)
    return [(number == 0, stretch) for number, stretch in enumerate(stretches)]


def play(lines: list[str], one: EdgeNode, two: EdgeNode, hub: HubCells) -> None:
    who: dict[str, Callable[..., object]] = {
        "1": one.command,
        "2": two.command,
        "hub": lambda name, *args: hub.ask(name, args),
    }
    for line in lines:
        found = re.fullmatch(r"(\w+): (.*) = (.*)", line)
        assert found is not None, line
        command = shlex.split(found[2])
        for name in list(who) if found[1] == "all" else [found[1]]:
            reply = shown(who[name](*command))
            assert is_meant(reply, found[3]), f"{line!r} at {name}: {reply}"


def is_meant(reply: str, wanted: str) -> bool:
    if ".." in wanted:
        low, high = wanted.split("..")
        return int(low) <= int(reply) <= int(high)
    return reply == wanted


def shown(reply: object) -> str:
    match reply:
        case None:
            return "nil"
        case bytes():
            return reply.decode()
        case dict():
            return "{" + " ".join(f"{shown(k)}:{shown(v)}" for k, v in sorted(reply.items())) + "}"
        case set() | frozenset():
            return "{" + " ".join(sorted(map(shown, reply))) + "}"
        case tuple():
            return " ".join(map(shown, reply))
        case list():
            return "[" + " ".join(map(shown, reply)) + "]"
    return f"{reply:g}" if isinstance(reply, float) else str(reply)
