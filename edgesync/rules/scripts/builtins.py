"""Functions and methods that an expression may call.   [sans-IO]

Each takes the arguments as they are; what is missing is UNDEFINED. TBEL's are for TBEL alone.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from edgesync.rules.scripts.values import (
    NAN,
    UNDEFINED,
    ScriptError,
    bounded,
    is_number,
    length,
    normal,
    parse_json,
    plain,
    same,
    stringify,
    to_number,
    to_text,
    truth,
)

Function = Callable[..., Any]
U: Final = UNDEFINED
PARSED_CHARS_MAX: Final = 400


def _math(function: Callable[..., float]) -> Function:
    def call(*args: Any) -> Any:
        try:
            return normal(function(*(float(to_number(one)) for one in args or (NAN,))))
        except ValueError:
            return NAN
        except OverflowError:
            return math.inf

    return call


def _whole(function: Callable[[float], int]) -> Function:
    def call(value: Any = U) -> Any:
        found = to_number(value)
        return normal(function(found)) if math.isfinite(found) else found

    return call


def _extreme(choose: Callable[..., float], none: float) -> Function:
    def call(*args: Any) -> Any:
        numbers = [to_number(one) for one in args]
        if any(one != one for one in numbers):
            return NAN
        return choose(numbers) if numbers else none

    return call


def power(base: float, exponent: float) -> float:
    if exponent != exponent or (abs(base) == 1 and math.isinf(exponent)):
        return NAN
    try:
        found = math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        return math.inf if base == 0 else NAN
    return found


def _parse_int(text: Any = U, base: Any = U) -> Any:
    digits = to_text(text).strip()
    sign = -1 if digits[:1] == "-" else 1
    digits = digits.lstrip("+-") if digits[:1] in ("+", "-") and digits[:1] else digits
    radix = int(to_number(base)) if math.isfinite(to_number(base)) else 0
    if radix in (0, 16) and digits[:2] in ("0x", "0X"):
        digits, radix = digits[2:], 16
    radix = radix or 10
    if not 2 <= radix <= 36:
        return NAN
    allowed = "0123456789abcdefghijklmnopqrstuvwxyz"[:radix]
    size = 0
    while size < min(len(digits), PARSED_CHARS_MAX) and digits[size].lower() in allowed:
        size += 1
    return normal(sign * int(digits[:size], radix)) if size else NAN


def _parse_float(text: Any = U) -> Any:
    found = to_text(text).strip()[:PARSED_CHARS_MAX]
    for word, value in (("Infinity", math.inf), ("+Infinity", math.inf), ("-Infinity", -math.inf)):
        if found.startswith(word):
            return value
    size = len(found)
    while size:
        part = found[:size]
        if part[-1] in "0123456789." and set(part) <= set("0123456789.eE+-"):
            try:
                return normal(float(part))
            except ValueError:
                pass
        size -= 1
    return NAN


def to_fixed(value: Any, places: Any = 0) -> str:
    """Number.prototype.toFixed, exact as doubles are; halves go away from zero."""
    count, found = to_number(places), to_number(value)
    count = 0 if count != count else count
    if not 0 <= count <= 100:
        raise ScriptError("RangeError: toFixed() takes 0 to 100 digits")
    if not math.isfinite(found) or abs(found) >= 1e21:
        return to_text(found)
    from decimal import ROUND_HALF_UP, Context, Decimal

    context = Context(prec=200, rounding=ROUND_HALF_UP)
    text = format(Decimal(found).quantize(Decimal(1).scaleb(-int(count)), context=context), "f")
    return text if found else text.lstrip("-")


def _has(value: Any, key: Any = U) -> bool:
    if isinstance(value, list):
        index = to_number(key)
        return index == index and 0 <= index < len(value) and float(index).is_integer()
    return isinstance(value, dict) and to_text(key) in value


def _json_stringify(value: Any = U, _replacer: Any = U, indent: Any = U) -> Any:
    return stringify(value, int(indent) if is_number(indent) else 0)


def _keys(value: Any = U) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return [str(index) for index in range(len(value))] if isinstance(value, list | str) else []


def _is_integer(value: Any = U) -> bool:
    return is_number(value) and math.isfinite(value) and float(value).is_integer()


FUNCTIONS: Final[Mapping[str, Function]] = {
    "parseInt": _parse_int,
    "parseFloat": _parse_float,
    "isNaN": lambda value=U: math.isnan(to_number(value)),
    "isFinite": lambda value=U: math.isfinite(to_number(value)),
    "Number": lambda value=0: to_number(value),
    "String": lambda value="": to_text(value),
    "Boolean": lambda value=U: truth(value),
    "encodeURIComponent": lambda value=U: bounded(quote(to_text(value), safe="!'()*-._~")),
}
# TBEL's numbers are Java's: a text that is none is an error.
TBEL_FUNCTIONS: Final[Mapping[str, Function]] = {
    "parseInt": lambda text=U, base=10: _java_int(text, base),
    "parseLong": lambda text=U, base=10: _java_int(text, base),
    "parseDouble": lambda text=U: _java_float(text),
    "parseFloat": lambda text=U: _java_float(text),
    "toFixed": lambda value=U, places=0: to_number(to_fixed(value, places)),
    "toInt": lambda value=U: _round_half_up(value),
    "isMap": lambda value=U: isinstance(value, dict),
    "isList": lambda value=U: isinstance(value, list),
    "encodeURI": lambda value=U: bounded(quote(to_text(value), safe="!'()*-._~;/?:@&=+$,#")),
}
CONSTANTS: Final[Mapping[str, Any]] = {"undefined": UNDEFINED, "NaN": NAN, "Infinity": math.inf}

NAMESPACES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Math": {
        "PI": math.pi, "E": math.e, "LN2": math.log(2), "LN10": math.log(10),
        "SQRT2": math.sqrt(2),
        "abs": lambda value=U: abs(to_number(value)),
        "ceil": _whole(math.ceil), "floor": _whole(math.floor), "trunc": _whole(math.trunc),
        "round": _whole(lambda value: math.floor(value + 0.5)),
        "sign": _whole(lambda value: (value > 0) - (value < 0)),
        "max": _extreme(max, -math.inf), "min": _extreme(min, math.inf),
        "pow": lambda base=U, exponent=U: normal(
            power(float(to_number(base)), float(to_number(exponent)))
        ),
        "sqrt": _math(math.sqrt), "cbrt": _math(math.cbrt), "exp": _math(math.exp),
        "log": _math(lambda x: math.log(x) if x else -math.inf),
        "log10": _math(lambda x: math.log10(x) if x else -math.inf),
        "log2": _math(lambda x: math.log2(x) if x else -math.inf),
        "sin": _math(math.sin), "cos": _math(math.cos), "tan": _math(math.tan),
        "asin": _math(math.asin), "acos": _math(math.acos), "atan": _math(math.atan),
        "atan2": _math(lambda y=NAN, x=NAN: math.atan2(y, x)), "hypot": _math(math.hypot),
    },
    "JSON": {"stringify": _json_stringify, "parse": lambda text=U: parse_json(to_text(text))},
    "Number": {
        "isInteger": _is_integer,
        "isNaN": lambda value=U: is_number(value) and math.isnan(value),
        "isFinite": lambda value=U: is_number(value) and math.isfinite(value),
        "parseFloat": _parse_float, "parseInt": _parse_int,
        "MAX_SAFE_INTEGER": (1 << 53) - 1, "MIN_SAFE_INTEGER": 1 - (1 << 53),
    },
    "Array": {"isArray": lambda value=U: isinstance(value, list)},
    "Object": {
        "keys": _keys,
        "values": lambda value=U: list(value.values()) if isinstance(value, dict) else [],
    },
}  # fmt: skip


def _java_int(text: Any, base: Any) -> Any:
    if is_number(text):
        return int(text)
    try:
        return int(str(text)[:PARSED_CHARS_MAX], int(base))
    except ValueError as error:
        raise ScriptError(f"NumberFormatException: {to_text(text)[:40]!r}") from error


def _java_float(text: Any) -> Any:
    try:
        return normal(float(text))
    except (ValueError, TypeError) as error:
        raise ScriptError(f"NumberFormatException: {to_text(text)[:40]!r}") from error


def _round_half_up(value: Any) -> Any:
    found = to_number(value)
    return math.floor(found + 0.5) if math.isfinite(found) else found


def _index(value: Any, size: int, none: int) -> int:
    """Return a position as slice() takes it: negative ones count from the end."""
    if value is UNDEFINED:
        return none
    found = to_number(value)
    if found != found:
        return 0
    at = size + found if found < 0 else found
    return int(max(0, min(at, size)))


def _slice(value: Any, start: Any = U, stop: Any = U) -> Any:
    size = len(value)
    return value[_index(start, size, 0) : _index(stop, size, size)]


def _substring(text: str, start: Any = U, stop: Any = U) -> str:
    size = len(text)

    def place(value: Any, none: int) -> int:
        found = none if value is UNDEFINED else to_number(value)
        return int(max(0, min(found, size))) if found == found else 0

    first, last = sorted((place(start, 0), place(stop, size)))
    return text[first:last]


def _split(text: str, mark: Any = U) -> list[str]:
    if mark is UNDEFINED:
        return [text]
    found = to_text(mark)
    return text.split(found) if found else list(text)


def _includes(value: Any, other: Any = U) -> bool:
    if isinstance(value, str):
        return to_text(other) in value
    return any(same(one, other) or (one != one and other != other) for one in value)


def _index_of(value: Any, other: Any = U) -> int:
    if isinstance(value, str):
        return value.find(to_text(other))
    return next((at for at, one in enumerate(value) if same(one, other)), -1)


def _char_code(text: str, at: Any = 0) -> Any:
    index = to_number(at)
    return ord(text[int(index)]) if 0 <= index < len(text) else NAN


def _concat(value: Any, *others: Any) -> Any:
    if isinstance(value, str):
        return bounded(value + "".join(map(to_text, others)))
    found = list(value)
    for one in others:
        found += one if isinstance(one, list) else [one]
    return found


def _replace(text: str, old: Any = U, new: Any = U) -> str:
    if "$" in to_text(new):
        raise ScriptError("replace() with $ in the new text")
    return bounded(text.replace(to_text(old), to_text(new), 1))


TEXT_METHODS: Final[Mapping[str, Function]] = {
    "toUpperCase": lambda text: text.upper(),
    "toLowerCase": lambda text: text.lower(),
    "trim": lambda text: text.strip(),
    "includes": _includes,
    "indexOf": _index_of,
    "startsWith": lambda text, other=U: text.startswith(to_text(other)),
    "endsWith": lambda text, other=U: text.endswith(to_text(other)),
    "charAt": lambda text, at=0: _substring(text, at, to_number(at) + 1),
    "charCodeAt": _char_code,
    "substring": _substring,
    "slice": _slice,
    "split": _split,
    "concat": _concat,
    "replace": _replace,
    "toString": lambda text: text,
}
LIST_METHODS: Final[Mapping[str, Function]] = {
    "includes": _includes,
    "indexOf": _index_of,
    "join": lambda value, mark=",": bounded(
        to_text(mark).join("" if one is None or one is U else to_text(one) for one in value)
    ),
    "slice": _slice,
    "concat": _concat,
    "toString": to_text,
}
NUMBER_METHODS: Final[Mapping[str, Function]] = {
    "toFixed": to_fixed,
    "toString": lambda value, base=10: _in_base(value, base),
}
MAP_METHODS: Final[Mapping[str, Function]] = {
    "hasOwnProperty": _has,
    "toString": to_text,
}
# Java's, of maps, lists and texts.
TBEL_METHODS: Final[Mapping[str, Function]] = {
    "get": lambda value, key=U: _get(value, key),
    "containsKey": _has,
    "size": lambda value: len(value),
    "length": lambda value: length(value) if isinstance(value, str) else len(value),
    "isEmpty": lambda value: not value,
    "contains": lambda value, other=U: _includes(value, other),
    "equals": lambda value, other=U: json.dumps(plain(value)) == json.dumps(plain(other)),
    "equalsIgnoreCase": lambda value, other=U: value.lower() == to_text(other).lower(),
}


def _get(value: Any, key: Any) -> Any:
    if isinstance(value, dict):
        return value.get(to_text(key), UNDEFINED)
    if isinstance(value, list) and is_number(key) and 0 <= key < len(value):
        return value[int(key)]
    return UNDEFINED


def _in_base(value: Any, base: Any) -> str:
    radix = 10 if base is UNDEFINED else to_number(base)
    if radix == 10:
        return to_text(value)
    if not 2 <= radix <= 36 or not _is_integer(value) or abs(value) > 1 << 53:
        raise ScriptError("toString() with a base takes whole numbers")
    digits, rest = "", abs(int(value))
    while rest:
        rest, digit = divmod(rest, int(radix))
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return ("-" if value < 0 else "") + (digits or "0")
