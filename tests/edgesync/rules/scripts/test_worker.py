"""Scripts in the worker: what they give, what stops them, and that both evaluators agree."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgesync.rules.node import ScriptAnswer, ScriptCall
from edgesync.rules.scripts.check import unknown_calls
from edgesync.rules.scripts.evaluate import Expression
from edgesync.rules.scripts.script import MESSAGE, Language, ScriptSource
from edgesync.rules.scripts.values import ScriptError
from edgesync.rules.worker.supervisor import (
    AGAIN_S,
    BRIEF_MAX,
    BRIEF_S,
    CPU_S,
    LEFT_OUT_S,
    SLOW_MAX,
    STARVED_S,
    WALL_S,
    ScriptWorker,
)

pytestmark = pytest.mark.slow

LIMITS = ("50 ms", "10 ms", "10 ms")  # of messages that never end, in a row
# A busy machine is no slow script.
PATIENCE_S = 30.0  # of a busy machine
MSG: dict[str, Any] = {"t": 7.5, "items": [{"w": 1.5}, {"w": 2}], "text": "abc", "raw": "0f1a"}


def source(body: str, language: Language = "JS", id_: str = "s") -> ScriptSource:
    return ScriptSource(id_, body, MESSAGE, language)


@pytest.fixture
def workers() -> Iterator[list[ScriptWorker]]:
    made: list[ScriptWorker] = []
    yield made
    for one in made:
        one.close()


def run(
    workers: list[ScriptWorker], body: str, language: Language = "JS", msg: Any = MSG
) -> ScriptAnswer:
    worker = ScriptWorker([source(body, language)])
    workers.append(worker)
    return worker.call(ScriptCall("s", (msg, {"ts": "1790000000123"}, "T")), 1_790_000_000_000)


# The shapes that scripts of public chains have, and what they give.
@pytest.mark.parametrize(
    ("language", "body", "msg", "expected"),
    [
        ("JS", "if (msg.kind === 'weight') { return ['weight']; } return ['other'];",
         {"kind": "weight"}, ["weight"]),
        ("JS", "var m = {method: msg.t > 50 ? 'fanOn' : 'fanOff', params: {t: msg.t}}; "
         "msgType = 'RPC message'; return {msg: m, metadata: {}, msgType: msgType};", {"t": 60},
         {"msg": {"method": "fanOn", "params": {"t": 60}}, "metadata": {},
          "msgType": "RPC message"}),
        ("JS", "var out = []; for (var i = 0; i < msg.list.length; i++) { out.push({msg: "
         "msg.list[i]}); } return out;", {"list": [1, 2]}, [{"msg": 1}, {"msg": 2}]),
        ("JS", "var all = []; for (var one of msg.list) { all.push({msg: one, metadata: metadata, "
         "msgType: msgType}); } return all;", {"list": [{"a": 1}, {"b": 2}]},
         [{"msg": one, "metadata": {"ts": "1790000000123"}, "msgType": "T"}
          for one in ({"a": 1}, {"b": 2})]),
        ("JS", "var was = JSON.parse(metadata.ts); delete metadata.ts; "
         "return {was: was + 1, left: Object.keys(metadata).length};", {},
         {"was": 1790000000124, "left": 0}),
        ("JS", "var d = {}; if (metadata.prev) { d = JSON.parse(metadata.prev); } "
         "d.count = (d.count || 0) + 1; return d;", {}, {"count": 1}),
        ("TBEL", "var n = 0; foreach (p : msg.items) { n = n + p.w; } msg.total = n; "
         "return msg.total;", MSG, 3.5),
        ("TBEL", "msg.ts = parseLong(metadata.ts); msg.remove('raw'); return msg;",
         {"raw": "x"}, {"ts": 1790000000123}),
        ("TBEL", "var m = {}; m.put('a', 1); var l = []; l.add(msg.get('t')); l.add(m.size()); "
         "l.add(toInt(2.6)); l.remove(0); return [l, m.get('a'), m.containsKey('b')];", MSG,
         [[1, 3], 1, False]),
        ("TBEL", "var a = []; a.add(msg.text.length()); a.add(msg.items.size()); a", MSG, [3, 2]),
        ("TBEL", "var b = hexToBytes(msg.raw); return [b, bytesToHex(b), parseHexToInt(msg.raw), "
         "bytesToString(base64ToBytes(bytesToBase64(stringToBytes('h\\u00e9'))))];", MSG,
         [[15, 26], "0f1a", 3866, "hé"]),
        ("TBEL", "toFixed(msg.t / 3, 2) + toInt(2.5)", MSG, 5.5),
        ("JS", "let x = [3, 1, 2].sort().map((v) => v * 2); return x;", {}, [2, 4, 6]),
        ("JS", "return new Date().getTime() + Date.now();", {}, 2 * 1_790_000_000_000),
        ("JS", "return /^a.c$/.test(msg.text);", MSG, True),
    ],
)  # fmt: skip
def test_scripts_of_every_public_shape_give_what_they_should(
    workers: list[ScriptWorker], language: Language, body: str, msg: Any, expected: Any
) -> None:
    assert run(workers, body, language, msg) == ScriptAnswer(value=expected)


def test_a_number_beyond_64_bits_is_what_a_double_holds(workers: list[ScriptWorker]) -> None:
    """Whoever evaluates it: a store has no such integer, and a reading of it is no failure."""
    for body, expected in (
        ("1e21 / msg.a", 1e21 / 7), ("-1e19", -1e19), ("Math.pow(2, 62)", 4611686018427388000),
    ):  # fmt: skip
        ours = Expression(f"return {body};", MESSAGE)(({"a": 7}, {}, "T"), 0)
        theirs = run(workers, f"var x = {body}; return x;", msg={"a": 7}).value
        assert (ours, type(ours)) == (theirs, type(theirs)) == (expected, type(expected))


def test_the_same_message_gives_the_same_chance(workers: list[ScriptWorker]) -> None:
    first = run(workers, "var r = Math.random(); return r;")
    assert run(workers, "var r = Math.random(); return r;") == first
    assert 0 < first.value < 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("while (true) {}", "more than 50 ms"),
        ("[3, 2, 1].sort(() => { while (true) {} });", "more than 50 ms"),
        ("/(a+)+$/.test('a'.repeat(40) + 'b');", "more than 50 ms"),
        ("var a = []; for (;;) { a.push('x'.repeat(9999) + a.length); }", "more than 8 MB"),
        ("function f() { return f() + 1; } f();", "call stack"),
        ("throw new Error('not today');", "Error: not today"),
        ("return nobody;", "nobody is not defined"),
        ("require('fs');", "require is not defined"),
        ("return 'x'.repeat(1 << 21);", "returned 2097154 characters"),
        ("var a = {}; a.a = a; return a;", "circular"),
    ],
)
def test_what_a_script_does_wrong_is_its_answer_in_time(
    workers: list[ScriptWorker], body: str, problem: str
) -> None:
    worker = ScriptWorker([source(body), source("var x = 1; return x;", id_="good")])
    workers.append(worker)
    good = ScriptCall("good", ({}, {}, "T"))
    assert worker.call(good, 0).value == 1
    begun_s = time.monotonic()
    answer = worker.call(ScriptCall("s", (MSG, {}, "T")), 0)
    assert time.monotonic() - begun_s < WALL_S + PATIENCE_S
    assert problem in answer.problem
    assert worker.call(good, 0).value == 1
    assert worker.starts == 1


@pytest.mark.parametrize(
    ("language", "body", "line"),
    [
        ("JS", "var x = 1;\n\nthrow new Error('no');", 3),
        ("JS", "var x = 1;\nmsg.items.forEach(function (one) {\n  one.q.r();\n});\nreturn 1;", 3),
        ("JS", "var x = 1;\nJSON.parse('{');", 2),
        ("JS", "function f() {\n  return f() + 1;\n}\nf();", 2),
        ("TBEL", "var n = 0;\nforeach (p : msg.items) {\n  n = n + p.w.x.y;\n}\nreturn n;", 3),
        ("TBEL", "var q = 1;\nmsg.a.b", 2),
        ("TBEL", "var q = 1;\nmsg.items.forEach(\nfunction (one) {\n  one.q.r();\n});\n1;", 4),
        ("TBEL", "var q = 1;\nreturn hexToBytes('xy');", 2),  # it is our own file that throws
    ],
)  # fmt: skip
def test_what_a_script_throws_is_told_with_its_line(
    workers: list[ScriptWorker], language: Language, body: str, line: int
) -> None:
    assert run(workers, body, language).problem.endswith(f" (line {line} of the script)")


@pytest.mark.parametrize("language", ["JS", "TBEL"])
def test_a_script_that_cannot_be_read_is_told_with_its_line_before_it_runs(
    workers: list[ScriptWorker], language: Language
) -> None:
    workers.append(worker := ScriptWorker([source("var a = 1;\nvar b = ;\na", language)]))
    assert worker.check()["s"].endswith(" (line 2 of the script)")


def test_a_process_that_does_not_answer_is_ended_within_the_wall(
    workers: list[ScriptWorker],
) -> None:
    import os
    import signal

    worker = ScriptWorker([source("var x = 1; return x;")])
    workers.append(worker)
    call = ScriptCall("s", ({}, {}, "T"))
    assert worker.call(call, 0).value == 1
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    assert "more than 250 ms" in worker.call(call, 0).problem
    assert WALL_S <= time.monotonic() - begun_s < STARVED_S + PATIENCE_S
    assert not worker.is_running
    time.sleep(0.11)  # the pause before it is started again
    assert worker.call(call, 0).value == 1


def test_a_script_that_takes_too_long_again_and_again_is_left_out(
    workers: list[ScriptWorker],
) -> None:
    worker = ScriptWorker([source("while (true) {}")])
    workers.append(worker)
    call = ScriptCall("s", ({}, {}, "T"))
    for limit in LIMITS:
        assert limit in worker.call(call, 0).problem
    assert "left out for 1 s" in worker.call(call, 0).problem
    time.sleep(LEFT_OUT_S[0])
    assert "50 ms" in worker.call(call, 0).problem
    assert "left out for 2 s" in worker.call(call, 0).problem


def test_entities_that_poison_a_script_are_left_out_and_others_are_not(
    workers: list[ScriptWorker],
) -> None:
    worker = ScriptWorker([source("while (msg.forever) {} return 1;")])
    workers.append(worker)
    bad, good = {"forever": True}, {"forever": False}

    def ask(entity: str, message: dict[str, bool]) -> str:
        return worker.call(ScriptCall("s", (message, {}, "T"), entity), 0).problem

    for limit in LIMITS:
        assert limit in ask("a", bad)
    for _ in range(10):
        assert "left out for 1 s" in ask("a", bad)
    assert ask("b", good) == ""
    time.sleep(LEFT_OUT_S[0])
    assert ask("a", good) == ""
    for entity in "bcd"[:SLOW_MAX]:  # of one script that is slow for everybody
        assert "50 ms" in ask(entity, bad)
    assert "left out for 1 s" in ask("e", bad)
    assert ask("e", good) == ""


def test_ten_messages_that_never_end_take_less_than_100_ms_together(
    workers: list[ScriptWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that came with them waits for so long; a script that ends once has its time again."""
    worker = ScriptWorker([source("while (msg.forever) {} return 1;")])
    workers.append(worker)
    asked: list[float] = []
    ask = worker._ask

    def noting(request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        asked.append(request.get("cpu", 0.0))
        return ask(request, wall_s)

    monkeypatch.setattr(worker, "_ask", noting)

    def call(is_bad: bool) -> None:
        worker.call(ScriptCall("s", ({"forever": is_bad}, {}, "T"), "a"), 0)

    call(False)
    asked.clear()
    for _ in range(10):
        call(True)
    assert len(asked) == 10
    assert sum(asked) < 0.1
    monkeypatch.setattr("edgesync.rules.worker.supervisor.LEFT_OUT_S", (0.0, 0.0))
    worker._breakers.clear()
    asked.clear()
    for is_bad in (True, True, False, False, True):
        call(is_bad)
    assert asked == [CPU_S, AGAIN_S, AGAIN_S, CPU_S, CPU_S]


def test_ten_poisoned_messages_do_not_stop_the_good_one_behind_them(
    workers: list[ScriptWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, a script is tried so briefly that a flood of bad ones costs little."""
    monkeypatch.setattr("edgesync.rules.worker.supervisor.LEFT_OUT_S", (1000.0, 1000.0))
    worker = ScriptWorker([source("while (msg.forever) {} return msg.n;")])
    workers.append(worker)

    def ask(number: int, *, is_bad: bool) -> ScriptAnswer:
        message = {"forever": is_bad, "n": number}
        return worker.call(ScriptCall("s", (message, {}, "T"), "a"), 0)

    for count in (10, BRIEF_MAX - 1):
        for number in range(count):
            assert ask(number, is_bad=True).problem
        for number in range(100):  # each of them, and not only the first
            assert ask(number, is_bad=False) == ScriptAnswer(value=number)
        worker._breakers["s"]._brief_since_s -= 1.0  # a second later there are tries again
    assert worker.starts == 1
    cpu_s = worker._cpu_s()
    for number in range(1000):
        assert "left out" in ask(number, is_bad=True).problem
    # Within a second; the machine may have taken longer for them, and given more tries.
    assert worker._cpu_s() - cpu_s < 1000 * BRIEF_S / 4


def test_the_worker_has_no_files_and_little_memory(workers: list[ScriptWorker]) -> None:
    import psutil

    worker = ScriptWorker([source("var x = 1; return x;", id_=str(at)) for at in range(20)])
    workers.append(worker)
    assert worker.check() == {}
    assert worker._process is not None
    process = psutil.Process(worker._process.pid)
    assert process.memory_info().rss < 60e6
    limits = [process.rlimit(one) for one in (psutil.RLIMIT_FSIZE, psutil.RLIMIT_NOFILE)]
    assert limits == [(0, 0), (16, 16)]


@pytest.mark.parametrize(
    ("body", "language", "unknown"),
    [
        ("var x = helper(1); return x;", "JS", ["helper"]),
        ("function helper(a) { return twice(a); } return helper(1);", "JS", ["twice"]),
        ("var f = function (a) { return a; }; let g = (b) => f(b); return g(1);", "JS", []),
        ("return parseLong(1) + toFixed(2.5, 1);", "TBEL", []),
        ("return parseLong(1);", "JS", ["parseLong"]),
        ("msg.items.forEach(function (one) { one.f(); }); return new Date(1);", "JS", []),
    ],
)
def test_calls_of_what_nobody_has_are_found(
    body: str, language: Language, unknown: list[str]
) -> None:
    assert unknown_calls(source(body, language)) == unknown


# -- both evaluators -------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["msg.a", "msg.b", "msg.s", "msg.u", "msg.n", "msg.l", "msg.o.x", "msg.l[0]"]
)
LITERALS = st.sampled_from(
    ["0", "1", "2.5", "-3", "1e21", "0.1", "'x'", "'12'", "''", "true", "false", "null",
     "undefined", "[1, 2]", "{q: 1}", "NaN"]
)  # fmt: skip
SIGNS = st.sampled_from(
    ["+", "-", "*", "/", "%", "<", ">", "<=", ">=", "==", "!=", "===", "!==", "&&", "||", "&", "|",
     "^", "<<", ">>", ">>>"]
)  # fmt: skip
CALLS = st.sampled_from(
    ["Math.round({})", "Math.abs({})", "String({})", "Number({})", "parseInt({})",
     "parseFloat({})", "isNaN({})", "Boolean({})", "typeof {}", "!{}", "-{}", "+{}", "~{}",
     "JSON.stringify({})", "({}).toFixed(1)", "('' + {}).length", "String({}).slice(-2)",
     "Math.max({}, 2)", "Math.floor({})", "('' + {}).indexOf('1')", "({} ?? 1)",
     "('' + {}).split('1').join('-')", "[{}].join('/')", "('' + {}).toUpperCase()"]
)  # fmt: skip


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, SIGNS, inner).map(lambda one: f"({one[0]} {one[1]} {one[2]})"),
        st.tuples(CALLS, inner).map(lambda one: one[0].format(f"({one[1]})")),
        st.tuples(inner, inner, inner).map(lambda one: f"({one[0]} ? {one[1]} : {one[2]})"),
    )


EXPRESSIONS = st.recursive(st.one_of(NAMES, LITERALS), combined, max_leaves=8)
INPUT: dict[str, Any] = {
    "a": 7, "b": -2.75, "s": "12 abc", "n": None, "l": [3, "x", None], "o": {"x": 1e-7},
}  # fmt: skip


@pytest.fixture(scope="module")
def both() -> Iterator[ScriptWorker]:
    worker = ScriptWorker([source("var f = new Function('msg', msg.code); return f(msg.input);")])
    yield worker
    worker.close()


@example("Math.round((1e21))")
@example("Math.floor((-1e300))")
@example("(1e21 / msg.a)")
@given(EXPRESSIONS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_evaluators_agree(both: ScriptWorker, body: str) -> None:
    """QuickJS is the measure of the evaluator of single expressions."""
    code = f"return {body};"
    theirs = both.call(ScriptCall("s", ({"code": code, "input": INPUT}, {}, "T")), 0)
    try:
        ours = Expression(code, ("msg",))((INPUT,), 0)
    except ScriptError:
        assert theirs.problem, (body, theirs.value)
        return
    assert not theirs.problem, (body, ours, theirs.problem)
    assert json.dumps(ours) == json.dumps(theirs.value), body
