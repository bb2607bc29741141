"""Lua scripts: answers as Redis gives them, and limits that no script gets around."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import hiredis
import pytest
import redis

from edgesync import EdgeNode
from edgesync._native.commands import EvictedReply
from edgesync._native.resp import ReplyError
from edgesync.cells import scripts as scripts_module
from edgesync.cells.scripts import MEMORY_BYTES, RESERVE_BYTES
from edgesync.errors import CommandError
from tests.edgesync.serve.resp.redis_server import open_redis
from tests.edgesync.serve.resp.sessions import Ours

pytestmark = pytest.mark.feature("L4")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_redis(tmp_path_factory.mktemp("redis")) as path:
        client = redis.Redis(unix_socket_path=str(path), protocol=2)
        yield client
        client.close()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    made = Ours(tmp_path_factory.mktemp("ours") / "store")
    yield made
    made.close()


def run(edge: Ours, source: str, *args: bytes) -> Any:
    return edge.ask([b"EVAL", source.encode(), *(args or (b"0",))])


def asked(client: Any, source: str, *args: bytes) -> Any:
    try:
        return client.execute_command("EVAL", source, *(args or (b"0",)))
    except redis.ResponseError as error:
        return error


SAME = [
    "return 1", "return 3.99", "return -3.99", "return 'x'", "return true", "return false",
    "return nil", "return", "return {}", "return {1, 2, nil, 4}",
    "return {1, {2, {'x'}}, true, false}",
    "return {ok = 'fine'}", "return {ok = 'a\\r\\nb'}", "return {err = 'MY text'}",
    "return {double = 1.5}", "return function() end", "return 2^53",
    "return redis.status_reply('S')", "return redis.error_reply('abc')",
    "return redis.error_reply('-MY abc')", "return redis.error_reply('MY abc')",
    "return redis.sha1hex('x')", "return {KEYS, ARGV, #KEYS}",
    "local x = redis.call('set', 'k', 'v') return x", "return redis.pcall('incr', 'k')",
    "return redis.call('get', 'absent')", "return {redis.call('get', 'absent')}",
    "redis.call('set', 'n', 1.5) return redis.call('get', 'n')",
    "redis.call('set', 'n', 2^53) return redis.call('get', 'n')",
    "redis.call('hset', 'h', 'f', 1, 'g', 2) return redis.call('hgetall', 'h')",
    "redis.call('zadd', 'z', 1.5, 'm') return {redis.call('zscore', 'z', 'm'), "
    "redis.call('zrange', 'z', 0, -1, 'withscores')}",
    "return redis.call('hmget', 'h', 'f', 'nope')", "return redis.call('type', 'h')",
    "return redis.call('exists', 'nope')", "return redis.call('ping')",
    "return redis.call('select', 0)", "return redis.call('echo', 'x')",
    "return redis.pcall('nosuch')", "return redis.pcall('get')", "return redis.pcall()",
    "return redis.pcall({})", "return redis.pcall('multi')", "return redis.pcall('eval', 'x', 0)",
    "return redis.pcall('blpop', 'a', 0)", "return redis.pcall('subscribe', 'a')",
    "return x", "x = 1", "string.x = 1", "error('boom')", "error({err = 'MY e'})",
    "local t = {} t.a.b = 1", "return 1 +", "return (",
    "local x = redis.call('incr', 'k') return x",
    "\n\nlocal x = redis.call('nosuch')\nreturn x", "return print('x')", "return os.time()",
    "return io", "return require('os')", "return dofile('x')", "return loadfile('x')",
    "return debug", "return getfenv", "return newproxy", "return tostring(redis.REDIS_VERSION)",
    "return redis.log(redis.LOG_DEBUG, 'x')", "return {pcall(function() error('x', 0) end)}",
    "return select(2, pcall(redis.call, 'incr', 'k')).err",
    "return {xpcall(function() error('x', 0) end, function(e) return e .. 'y' end)}",
    "return {bit.band(7, 3), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.bnot(0), bit.lshift(1, 31), "
    "bit.rshift(-1, 28), bit.arshift(-16, 2), bit.rol(1, 33), bit.ror(1, 1), bit.bswap(1), "
    "bit.tobit(2^32 + 5)}",
    "return {bit.tohex(255), bit.tohex(-1, 4), bit.tohex(255, -2)}",
    "return cjson.encode({a = {1, 2, 'x'}})", "return cjson.encode({})",
    "return cjson.encode('é\\n/\"')",
    "return cjson.encode({1, 2.5, true, cjson.null})", "return cjson.encode({[1] = 1, [5] = 2})",
    "return cjson.encode(12345678901234)", "return cjson.encode(0.1)",
    "return cjson.decode('{\"a\": [1, 2.5, \"x\\\\u00e9\", true, null]}').a",
    "return cjson.decode('[]')", "return cjson.decode(' 5 ')",
    "return cjson.decode('\"\\\\ud83d\\\\ude00\"')",
    "return tostring(cjson.decode('[null]')[1] == cjson.null)",
    "return cmsgpack.pack({1, 2, 300, -5, 70000, -70000, 2^40, -2^40, 'x', true, 0.1})",
    "return cmsgpack.pack({a = {1, {}}})",
    "return cmsgpack.pack(('x'):rep(300), -129, -1.3, 1e300)",
    "return {cmsgpack.unpack(cmsgpack.pack(1, 'a', {2, {3}}, -1, 255, 65536, 1.5))}",
    "return {('a,b,,c'):gsub(',', ';')}", "return {('key:12:x'):match('(%a+):(%d+)')}",
    "local r = {} for w in ('a b  c'):gmatch('%S+') do r[#r + 1] = w end return r",
    "return {('abc'):find('b', 1, true), ('abc'):find('x'), ('abc'):find('', 10)}",
    "return string.format('%5.2f|%s|%q', 1.239, 'x', 'a\\nb')", "return {tonumber('0x10'), #'abc'}",
    "local t = {3, 1, 2} table.sort(t) return t", "return table.concat({1, 'b'}, '-')",
    "local t = {1, 2} table.insert(t, 1, 0) table.remove(t) return t", "return unpack({7, 8})",
    "return math.max(1, 5, 3)", "return loadstring('return 5')()",
    "return tostring(loadstring('('))",
    "#!lua\nreturn 1", "#!lua flags=no-writes\nlocal x = redis.call('set', 'x', 1) return x",
    "#!lua flags=allow-oom,no-cluster\n\nlocal x = redis.call('nosuch') return x",
    "#!lua flags=\nreturn 1", "#!not-lua\nreturn 1", "#!lua badger=x\nreturn 1",
    "#!lua flags=no-writes,x\nreturn 1", "#!lua",
    "local t = {} for i = 1, 7996 do t[i] = i end return redis.call('rpush', 'l', unpack(t))",
    "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(i) end "
    "redis.call('rpush', 'l', unpack(t)) return redis.call('lrange', 'l', 0, -1)",
    "cjson.encode_keep_buffer(false) return cjson.encode({1})",
    "return _G.ARGV", "return tostring(getmetatable('') == nil)", "return type(_G)",
]  # fmt: skip


@pytest.mark.parametrize("source", SAME)
def test_a_script_is_answered_as_by_redis(ours: Ours, theirs: Any, source: str) -> None:
    theirs.flushall()
    ours.ask([b"FLUSHDB", b"YES"])
    args = (b"1", b"key", b"arg", b"")
    got, wanted = run(ours, source, *args), asked(theirs, source, *args)
    if isinstance(wanted, redis.ResponseError):
        assert isinstance(got, hiredis.ReplyError)
        # redis-py takes the word ERR away.
        assert str(got).removeprefix("ERR ") == str(wanted).removeprefix("ERR ")
    else:
        assert got == wanted


@pytest.mark.parametrize(
    "source",
    [
        "#!lua\nreturn 1",
        "#!lua flags=no-writes\nreturn 1",
        "local x = redis.call('publish', 'news', 'x') return x",
        "local x = redis.call('del', 'x') return x",
    ],
)
def test_a_script_that_may_write_is_not_run_as_one_that_reads(
    ours: Ours, theirs: Any, source: str
) -> None:
    try:
        wanted = str(theirs.execute_command("EVAL_RO", source, 0))
    except redis.ResponseError as error:
        wanted = f"ERR {error}"
    assert str(ours.ask([b"EVAL_RO", source.encode(), b"0"])) == wanted


def test_scripts_are_loaded_found_and_forgotten_as_in_redis(ours: Ours, theirs: Any) -> None:
    for request in (
        "SCRIPT LOAD return(1)", "SCRIPT EXISTS ffff 7b6dc7a5", "EVALSHA ffff 0", "SCRIPT FLUSH",
        "SCRIPT FLUSH now", "SCRIPT KILL", "SCRIPT nosuch", "EVAL return(1) x", "EVAL return(1) -1",
        "EVAL return(1) 2 a", "EVAL_RO return(redis.pcall('set','a','b')) 0", "SCRIPT LOAD (",
    ):  # fmt: skip
        parts = request.split()
        try:
            wanted = theirs.execute_command(*parts)
        except redis.RedisError as error:
            wanted = str(error).removeprefix("ERR ").removeprefix("NOSCRIPT ")
        got = ours.ask([part.encode() for part in parts])
        if isinstance(got, hiredis.ReplyError):
            got = str(got).removeprefix("ERR ").removeprefix("NOSCRIPT ")
        assert got == wanted, request
    sha: Any = ours.ask([b"SCRIPT", b"LOAD", b"return redis.call('INCR', KEYS[1])"])
    assert ours.ask([b"SCRIPT", b"EXISTS", sha, b"00"]) == [1, 0]
    assert ours.ask([b"EVALSHA", sha.upper(), b"1", b"n"]) == 1
    refused = ours.ask([b"EVALSHA_RO", sha, b"1", b"n"])
    assert str(refused).startswith("ERR Write commands are not")
    ours.ask([b"SCRIPT", b"FLUSH"])
    assert str(ours.ask([b"EVALSHA", sha, b"1", b"n"])).startswith("NOSCRIPT")


HOSTILE = [
    "while true do end",
    "while true do pcall(error) end",
    "while true do xpcall(error, error) end",
    "local function f() return pcall(f) end while true do f() end",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = {} end",
    "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
    "return #(string.rep('x', 1e9))",
    "local function f() return 1 + f() end return f()",
    "return (('a'):rep(1e5)):find(('.-'):rep(20) .. 'b')",
    "return (('a'):rep(1e5)):find(('a?'):rep(3e5))",
    "return (('a'):rep(30)):match(('a*'):rep(30) .. 'b')",
    "return (('a'):rep(1e6)):gsub('a-b', 'x')",
    "for w in ((('a'):rep(1e6)):gmatch('(a*)*b')) do end while true do end",
    "return (('a'):rep(2e6)):find(('a'):rep(1e6) .. 'b', 1, true) or error('x')",
    "local s = ('a'):rep(4e6) while true do if s < s then return end end",
    "local s = ('a'):rep(1e6) while true do s:upper() end",
    "local t = {} for i = 1, 3e5 do t[i] = -i end while true do table.sort(t) end",
    "local t = {} for i = 1, 3e5 do t[i] = i end "
    "while true do table.insert(t, 1, 0) table.remove(t, 1) end",
    "local t = {} for i = 1, 1e5 do t[i] = 'x' end while true do table.concat(t) end",
    "return cjson.decode(('['):rep(1e6))",
    "local t = {} t[1] = t return cjson.encode(t)",
    "setmetatable(_G, {}) while true do end",
    "return tostring(setmetatable({}, {__tostring = function() while true do end end}))",
    "redis.call('set', 'hostile', ('x'):rep(1e6)) "
    "while true do redis.call('append', 'hostile', 'x') end",
    "while true do redis.pcall('get', 'hostile') end",
    "return loadstring(('('):rep(1e5))() ",
    "while true do loadstring('return 1')() end",
    "local s = 'return ' .. ('{'):rep(150) .. ('}'):rep(150) while true do loadstring(s)() end",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_script_ends_and_has_written_nothing(ours: Ours, source: str) -> None:
    ours.ask([b"FLUSHDB", b"YES"])
    reply = run(ours, "redis.call('set', 'before', 1) " + source)
    assert isinstance(reply, hiredis.ReplyError)
    if "has written nothing" in str(reply):
        assert ours.ask([b"GET", b"before"]) is None
        assert ours.ask([b"DBSIZE"]) == 0
    else:  # an error of Lua: as in Redis, what was done before it stays
        assert ours.ask([b"GET", b"before"]) == b"1"
    assert run(ours, "return 'fine'") == b"fine"
    scripts = ours.cells.call.scripts
    assert scripts is not None
    assert scripts.memory_bytes < scripts_module.MEMORY_BYTES + scripts_module.SCRIPTS_BYTES_MAX


ESCAPES = [
    "return python", "return package", "return module", "return debug", "return coroutine",
    "return string.dump()", "return setfenv", "return getmetatable(redis.call).__index",
    "local ok, e = pcall(bit.band, {}) return e.__class__.__name__",
    "return getmetatable(cjson.null).__gc", "return loadstring('\\27Lua')()",
    "return load(function() return nil end)() or loadstring(string.char(27) .. 'Lua')()",
    "getmetatable('').__index.upper = nil", "rawset(string, 'upper', nil)", "rawset(_G, 'x', 1)",
    "setmetatable(string, {})", "KEYS = 1", "redis.call = nil", "math.x = 1", "pcall = nil",
]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
def test_a_script_reaches_neither_python_nor_other_scripts(ours: Ours, source: str) -> None:
    assert isinstance(run(ours, source), hiredis.ReplyError)
    assert run(ours, "return string.upper('x')") == b"X"


def test_patterns_matched_in_lua_give_what_c_gives(ours: Ours) -> None:
    """A long text is matched by patterns.lua, a short one by C: the same pieces come out."""
    short = "k1=22 (a(b)c) aba abcd x y xxy ends."
    long = short + " " * 3000
    source = (
        "local out = {} for a, b in ARGV[1]:gmatch(ARGV[2]) do out[#out + 1] = a .. (b or '-') end "
        "return {out, (ARGV[1]:gsub(ARGV[2], '<%0>'):gsub(' +$', '')), {ARGV[1]:find(ARGV[2])}}"
    )
    for pattern in (
        "(%a+)=(%d+)",
        "%b()",
        "%f[%w]%w+",
        "[^%s]+",
        "(a)(b)%1",
        "()x()",
        "x-y",
        "[a-c]+d?",
    ):
        wanted = run(ours, source, b"0", short.encode(), pattern.encode())
        assert run(ours, source, b"0", long.encode(), pattern.encode()) == wanted, pattern


def test_a_script_sees_and_stays_within_a_transaction(ours: Ours) -> None:
    ours.ask([b"FLUSHDB", b"YES"])
    ours.ask([b"MULTI"])
    ours.ask([b"SET", b"k", b"1"])
    ours.ask([b"EVAL", b"return redis.call('INCR', 'k')", b"0"])
    ours.ask([b"EVAL", b"redis.call('INCR', 'k') while true do end", b"0"])
    replies: Any = ours.ask([b"EXEC"])
    assert replies[:2] == [b"OK", 2]
    assert "has written nothing" in str(replies[2])
    assert ours.ask([b"GET", b"k"]) == b"2"


def test_a_script_that_meets_a_value_left_to_the_hub_has_not_happened(ours: Ours) -> None:
    scripts = ours.cells.call.scripts
    assert scripts is not None
    refused = EvictedReply([b"away"])
    scripts_module.OTHERS[b"echo"] = (lambda _scripts, _request: refused, 2)
    try:
        source = b"redis.call('set', 'x1', 1) redis.pcall('echo', 'a') redis.call('set', 'x2', 2)"
        reply = ours.cells.run([b"EVAL", source, b"0"])
    finally:
        scripts_module.OTHERS[b"echo"] = (lambda _scripts, request: request[1], 2)
    assert isinstance(reply, EvictedReply)
    assert ours.ask([b"EXISTS", b"x1", b"x2"]) == 0


def test_without_lua_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lupa.lua51", None)
    made = Ours(tmp_path / "store")
    reply = run(made, "return 1")
    assert "pip install 'edgesync[lua]'" in str(reply)
    made.close()


def test_large_arguments_and_replies_end_a_script_and_not_the_process(ours: Ours) -> None:
    value = b"x" * 1_000_000
    ours.ask([b"SET", b"large", value])
    assert run(ours, "return #ARGV[1]", b"0", value) == len(value)
    assert run(ours, "return redis.call('get', 'large')") == value
    many = "local t = {} for i = 1, 100 do t[i] = redis.call('get', 'large') .. i end return #t"
    assert "memory" in str(run(ours, many))
    assert "of a script of over" in str(run(ours, "return 1", b"0", *[value] * 9))
    assert run(ours, "return #ARGV", b"0", *[b"x"] * 50_000) == 50_000


def test_limits_of_a_preset_hold_inside_a_script_that_can_still_be_taken_back(
    tmp_path: Path,
) -> None:
    settings = {"edge": {"data_dir": str(tmp_path)}, "cells": {"preset": "iot", "script_cpu": "1s"}}
    with EdgeNode(settings, folder=tmp_path) as node:
        many = (
            "for i = 1, 1100 do local r = redis.pcall('SET', 'k' .. i, i) "
            "if type(r) == 'table' and r.err then return {i, r.err} end end"
        )
        at, problem = cast("list[Any]", node.command("EVAL", many, 0))
        assert at == 1001
        assert problem.startswith(b"OOM preset iot holds at most 1000 keys")
        assert node.command("DBSIZE") == 1000
        node.command("FLUSHALL", "YES")
        ended = many.replace("return {i, r.err}", "while true do end")
        with pytest.raises(CommandError, match="has written nothing"):
            node.command("EVAL", ended, 0)
        assert node.command("DBSIZE") == 0
        node.set("after", 1)
        assert node.command("KEYS", "*") == [b"after"]


def test_scripts_that_are_known_are_bounded_in_number_and_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Ours(tmp_path / "store")
    scripts = made.cells.call.scripts
    assert scripts is not None
    counts = []
    with monkeypatch.context() as few:
        few.setattr(scripts_module, "SCRIPTS_MAX", 3)
        for number in range(5):
            scripts.load(b"return %d" % number)
            counts.append(scripts.count)
    assert counts == [1, 2, 3, 1, 2], "all are forgotten but the newest"
    scripts.flush()
    with monkeypatch.context() as small:
        small.setattr(scripts_module, "SCRIPTS_BYTES_MAX", 16 * 20)
        for number in range(17):
            assert scripts.count == number
            scripts.load(b"return 123456 + %4d" % number)
        assert scripts.count == 1
        with pytest.raises(ReplyError, match="a script of over 20 bytes"):
            scripts.load(b"return " + b" " * 20)
    made.close()


def test_what_a_limit_ended_leaves_nothing_to_the_next_script(tmp_path: Path) -> None:
    """Nobody knows what is left in a VM that met a limit: it is replaced."""
    made = Ours(tmp_path / "store")
    scripts = made.cells.call.scripts
    assert scripts is not None
    run(made, "return 1")
    first = scripts._vm
    assert "Unknown Redis command" in str(run(made, "return redis.call('nonsense')"))
    assert scripts._vm is first
    for hostile in (
        "while true do end",
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end",
        "local s = ('a'):rep(1e6) while true do s:upper() end",
    ):
        assert "has written nothing" in str(run(made, hostile))
        assert run(made, "return 1") == 1
        assert scripts._vm is not first
        first = scripts._vm
    # What a script has let go of is no reason to end it.
    made.ask([b"SET", b"large", b"x" * 900_000])
    assert run(made, "for i = 1, 40 do redis.call('GET', 'large') end return 1") == 1
    # A reply there is no room for ends the script, and its VM.
    filled = "local t = {} for i = 1, 15 do t[i] = redis.call('GET', 'large') .. i end return #t"
    assert "larger than its memory" in str(run(made, filled))
    assert run(made, "return 1") == 1
    assert scripts._vm is not first
    made.close()


def test_a_vm_that_is_full_is_replaced_before_what_comes_next(tmp_path: Path) -> None:
    made = Ours(tmp_path / "store")
    scripts = made.cells.call.scripts
    assert scripts is not None
    run(made, "return 1")
    first = scripts._vm
    assert first is not None
    room = MEMORY_BYTES - RESERVE_BYTES - first.used_bytes()
    assert first.has_room(room // 2)
    assert not first.has_room(room + RESERVE_BYTES)
    # What is loaded stays in the VM: scripts of half a MiB fill it, and it is replaced in time.
    vms = set[int]()
    for number in range(40):
        source = b"local a = '%d%s' return %d" % (number, b"x" * 900_000, number)
        assert run(made, source.decode()) == number
        assert scripts._vm is not None
        assert scripts._vm.used_bytes() < MEMORY_BYTES
        vms.add(id(scripts._vm))
    assert len(vms) > 1
    large = b"x" * (MEMORY_BYTES - 2 * RESERVE_BYTES)
    with pytest.raises(ReplyError, match="keys and arguments of a script of over"):
        scripts.run(scripts.load(b"return 1"), [], [large], read_only=False)
    made.close()


def test_a_script_that_is_cut_off_from_outside_has_written_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = scripts_module._Vm.run

    def cut_off(*args: Any) -> Any:
        finish(*args)
        raise MemoryError

    made = Ours(tmp_path / "store")
    scripts = made.cells.call.scripts
    assert scripts is not None
    sha = scripts.load(b"return redis.call('set', 'k', 1)")
    with monkeypatch.context() as broken:
        broken.setattr(scripts_module._Vm, "run", cut_off)
        with pytest.raises(MemoryError):
            scripts.run(sha, [], [], read_only=False)
    assert scripts._vm is None, "nobody knows what is left in it"
    assert made.ask([b"EXISTS", b"k"]) == 0
    assert run(made, "return redis.call('incr', 'k')") == 1
    made.close()


@pytest.mark.setting("cells.script_cpu")
def test_the_time_of_a_script_is_what_the_file_says(tmp_path: Path) -> None:
    settings = {"edge": {"data_dir": str(tmp_path)}, "cells": {"script_cpu": "7ms"}}
    with (
        EdgeNode(settings, folder=tmp_path) as node,
        pytest.raises(CommandError, match=r"more than 0\.007 s"),
    ):
        node.command("EVAL", "local s = ('a'):rep(1e6) while true do s:upper() end", 0)
