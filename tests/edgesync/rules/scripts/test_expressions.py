"""Single expressions: what they give, what is left to the worker, and that they stay bounded."""

import math
from typing import Any

import pytest

from edgesync.rules.scripts.evaluate import Expression
from edgesync.rules.scripts.lexer import NotUnderstood
from edgesync.rules.scripts.script import MESSAGE
from edgesync.rules.scripts.values import ScriptError

MSG = {
    "level": 12, "t": 21.55, "big": 9007199254740993, "name": "Tank 7", "list": [3, 1, 2],
    "none": None, "on": True, "deep": {"a": {"b": 4}}, "text": "12.5",
}  # fmt: skip
METADATA = {"deviceType": "tank", "ts": "1790000000123", "limit": "20"}


def value(body: str, *, tbel: bool = False) -> Any:
    script = body if tbel else f"return {body};"
    return Expression(script, MESSAGE, is_tbel=tbel)((MSG, METADATA, "POST"), 1_790_000_000_123)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("msg.level < 20 && metadata.deviceType === 'tank'", True),
        ("msg.level < metadata.limit", True),
        ("msg.nothing > 5 || msg.nothing <= 5", False),
        ("typeof msg.nothing !== 'undefined'", False),
        ("typeof nobody === 'undefined'", True),
        ("msg.hasOwnProperty('level') && 'name' in msg", True),
        ("msg.on == 1 && msg.none == undefined && msg.none !== undefined", True),
        ("msg.deep?.a.b + (msg.no?.such.thing ?? 1)", 5),
        ("msg.level > 10 ? ['high', 'any'] : 'low'", ["high", "any"]),
        ("{msg: {f: (msg.t * 1.8 + 32).toFixed(1)}, metadata, msgType: msgType}",
         {"msg": {"f": "70.8"}, "metadata": METADATA, "msgType": "POST"}),
        ("msg.t + 1", 22.55), ("msg.text * 2", 25), ("'a' + msg.level + 1", "a121"),
        ("msg.level / 4", 3), ("7 % -3", 1), ("-7 % 3", -1), ("2 ** 3 ** 2", 512), ("1 / 0", None),
        ("0.1 + 0.2", 0.30000000000000004), ("msg.big", 9007199254740993),
        ("msg.big + 0", 9007199254740992), ("5 & 3 | 8", 9), ("-1 >>> 28", 15),
        ("1 << 31", -(1 << 31)),
        ("msg.name.toUpperCase().split(' ')[1]", "7"), ("msg.name.length", 6),
        ("msg.name.substring(0, 4).toLowerCase().indexOf('n')", 2),
        ("msg.list.length + msg.list[0] + msg.list.indexOf(2)", 8), ("msg.list.join('-')", "3-1-2"),
        ("msg.list[9]", None), ("Math.round(-2.5) + Math.max(1, 2) + Math.floor(-0.5)", -1),
        ("Math.min()", None), ("parseInt('12px') + parseFloat('1.5e1x')", 27),
        ("parseInt('0x1f') + Number('') + Number('0b11')", 34),
        ("isNaN(Number('x'))", True), ("Math.PI > 3.14", True), ("Date.now()", 1_790_000_000_123),
        ("JSON.stringify({a: [1, 'x', null, undefined], b: undefined})", '{"a":[1,"x",null,null]}'),
        ("JSON.parse('{\"a\":[1,2]}').a[1]", 2), ("(1.005).toFixed(2)", "1.00"),
        ("(1e21) + '' + 1e-7 + 123456789012345680000", "1e+211e-7123456789012345680000"),
        ("String(1/3)", "0.3333333333333333"), ("'' + [1, [2, null]] + {}", "1,2,[object Object]"),
        ("'b' > 'a' && '10' < '9' && 10 > '9'", True), ("null ?? 'x'", "x"), ("!msg.list", False),
        ("/* why */ msg.on // because\n", True), ("'\\u00e4\\n\\x41'", "ä\nA"),
    ],
)  # fmt: skip
def test_an_expression_gives_what_javascript_gives(body: str, expected: Any) -> None:
    assert value(body) == expected
    assert type(value(body)) is type(expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("msg.level > 10", True),
        ("return msg.get('level') + msg.size();", 21),
        ("msg.containsKey('name') && !msg.list.isEmpty()", True),
        ("parseLong(metadata.ts) - 1790000000000", 123),
        ("toFixed(msg.t, 1) + toInt(2.5)", 24.6),
        ("msg.name.length() == 6 && isMap(msg.deep)", True),
    ],
)
def test_tbel_has_javas_calls_and_a_value_without_return(body: str, expected: Any) -> None:
    assert value(body, tbel=True) == pytest.approx(expected)


@pytest.mark.parametrize(
    "body",
    [
        "var x = 1; return x;", "msg.a = 5", "return msg.a = 5;", "return msg.a++;", "return\nmsg;",
        "return (function () {})();", "return () => 1;", "return new Date();", "return `x`;",
        "return /x/.test('x');", "return msg.list.map(f);", "return nobody;", "return nobody(1);",
        "return this;", "return eval('1');", "return Math.random();", "return msg.list.sort();",
        "return 1; return 2;", "return [...msg.list];", "return 'a", "return 012;",
        "return -1 ** 2;",
        "return Math.constructor;", "return a ?? b || c;", "if (1) return 2;", "", "return 1 2;",
        "return {a: 1", "return msg.constructor('x');", "return 08;", "return 3px;",
    ],
)  # fmt: skip
def test_what_is_no_single_expression_is_left_to_the_worker(body: str) -> None:
    with pytest.raises(NotUnderstood):
        Expression(body, MESSAGE)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("msg.nothing.more", "cannot read properties of undefined (reading 'more')"),
        ("msg.none.toFixed(1)", "null has no toFixed()"),
        ("msg.level.trim()", "trim is not a function of number"),
        ("JSON.parse('{')", "JSON.parse"),
        ("'x' in 5", "needs an object"),
        ("(5).toFixed(101)", "0 to 100 digits"),
    ],
)
def test_what_javascript_throws_is_an_error_with_its_reason(body: str, problem: str) -> None:
    with pytest.raises(ScriptError) as raised:
        value(body)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("msg.nothing.more", 1),
        ("{level: msg.level,\n more: msg\n  .nothing.more}", 3),
        ("msg.level > 1\n // why\n && JSON.parse('{')", 3),
        ("msg.level +\n ('x' in 5) +\n msg.nothing.more", 2),
    ],
)
def test_an_error_is_told_with_its_line(body: str, line: int) -> None:
    with pytest.raises(ScriptError, match=rf" \(line {line} of the script\)$"):
        value(body)


@pytest.mark.parametrize(
    "body",
    [
        "(" * 70 + "1" + ")" * 70,
        "!" * 100 + "1",
        "1" + "+1" * 5000,
        "[" * 70 + "]" * 70,
        "a" + "?a" * 70,
        "x." * 10_001 + "x",
    ],
)
def test_size_and_depth_of_an_expression_are_limited(body: str) -> None:
    with pytest.raises(NotUnderstood):
        Expression(f"return {body};", ("a", "x"))


def test_a_text_that_doubles_itself_ends_at_the_limit() -> None:
    script = Expression("return " + "+".join(["msg"] * 100) + ";", ("msg",))
    with pytest.raises(ScriptError, match="more than 65536 characters"):
        script(("x" * 1000,), 0)


def test_a_message_that_is_nested_deeply_is_an_error_not_a_crash() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for body in ("return msg;", "return JSON.stringify(msg);", "return msg + '';"):
        with pytest.raises(ScriptError):
            Expression(body, ("msg",))((deep,), 0)


def test_what_a_script_returns_is_what_json_can_say() -> None:
    script = Expression("return {a: 0/0, b: undefined, c: [undefined], d: 3.0};", ())
    assert script((), 0) == {"a": None, "c": [None], "d": 3}
    assert Expression("return 1e400;", ())((), 0) is None
    assert math.isinf(1e400)
