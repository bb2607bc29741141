"""Values as JavaScript converts and compares them.   [sans-IO]

Numbers are Python's: a whole one is an int, so what a device sent as a 64-bit number passes through
unchanged; arithmetic gives what doubles give.
"""

import json
import math
import re
from typing import Any, Final, NoReturn

from edgesync.model import I64

TEXT_CHARS_MAX: Final = 64 * 1024
EXACT: Final = 1 << 53
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


class ScriptError(Exception):
    """An error as a script would have thrown it; `line` is that of the script, 0 if unknown."""

    line = 0

    def __str__(self) -> str:
        said = super().__str__()
        return f"{said} (line {self.line} of the script)" if self.line else said


class Undefined:
    """JavaScript's undefined; there is one."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()
NAN: Final = math.nan


def normal(value: float | int) -> float | int:
    """Return a number as a double holds it, as an int where it is whole."""
    if isinstance(value, int):
        return value if -EXACT <= value <= EXACT else float(value)
    return int(value) if -EXACT <= value <= EXACT and value.is_integer() else value


def whole(text: str) -> float | int:
    """Return a whole number as JSON has it; beyond 64 bits it is what a double holds."""
    value = int(text)
    return value if -I64 <= value < I64 else float(text)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def truth(value: Any) -> bool:
    if isinstance(value, list | dict):
        return True
    return bool(value) and value == value  # NaN is false


def to_number(value: Any) -> float | int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return 0
    if isinstance(value, str):
        return _number_of(value)
    if isinstance(value, list):
        return to_number(to_text(value))
    return NAN


def _number_of(text: str) -> float | int:
    text = text.strip()
    if not text:
        return 0
    if _DECIMAL.fullmatch(text):
        return normal(float(text))
    sign = -1 if text[0] == "-" else 1
    if text.lstrip("+-") == "Infinity" and len(text) <= 9:
        return sign * math.inf
    if text[:2] in ("0x", "0X", "0b", "0B", "0o", "0O") and "_" not in text:
        try:
            return normal(int(text, 0))
        except ValueError:
            return NAN
    return NAN


def to_text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(value)
        case None:
            return "null"
        case Undefined():
            return "undefined"
        case list():
            return bounded(
                ",".join("" if one is None or one is UNDEFINED else to_text(one) for one in value)
            )
    return "[object Object]"


def number_text(value: float | int) -> str:
    """Return a number as JavaScript writes it: 1e21 from there on, 1e-7 below a millionth."""
    if isinstance(value, int):
        if abs(value) < 10**21:
            return str(value)
        value = float(value)
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    sign, digits, exponent = _digits(value)
    point = len(digits) + exponent  # digits before the decimal point
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + text


def _digits(value: float) -> tuple[str, str, int]:
    """Return sign, the shortest digits, and the power of ten of the last of them."""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    power = int(exponent or 0) - len(fraction)
    stripped = digits.rstrip("0")
    return "-" if value < 0 else "", stripped, power + len(digits) - len(stripped)


def bounded(text: str) -> str:
    if len(text) > TEXT_CHARS_MAX:
        raise ScriptError(f"a text of more than {TEXT_CHARS_MAX} characters")
    return text


def to_int32(value: Any) -> int:
    return (to_uint32(value) + (1 << 31)) % (1 << 32) - (1 << 31)


def to_uint32(value: Any) -> int:
    found = to_number(value)
    if found != found or found in (math.inf, -math.inf):
        return 0
    return int(found) % (1 << 32)


def primitive(value: Any) -> Any:
    return to_text(value) if isinstance(value, list | dict) else value


def same(left: Any, right: Any) -> bool:
    """JavaScript's ===."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if is_number(left) and is_number(right):
        return bool(left == right)
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    return left is right


def equal(left: Any, right: Any) -> bool:
    """JavaScript's ==."""
    empty = (None, UNDEFINED)
    if left is None or left is UNDEFINED or right is None or right is UNDEFINED:
        return any(left is one for one in empty) and any(right is one for one in empty)
    if isinstance(left, list | dict) and isinstance(right, list | dict):
        return left is right
    left, right = primitive(left), primitive(right)
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    return bool(to_number(left) == to_number(right))


def units(text: str) -> bytes:
    """Return a text's UTF-16 units: what JavaScript counts and sorts by."""
    return text.encode("utf-16-be", "surrogatepass")


def length(text: str) -> int:
    return len(text) if text.isascii() else len(units(text)) // 2


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can say it: what is undefined is left out, NaN is null."""
    if depth > 200:
        raise ScriptError("a value nested more than 200 deep")
    if isinstance(value, dict):
        return {
            key: plain(member, depth + 1)
            for key, member in value.items()
            if member is not UNDEFINED
        }
    if isinstance(value, list):
        return [plain(member, depth + 1) for member in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return whole(number_text(value)) if value.is_integer() and abs(value) < I64 else value
    return None if value is UNDEFINED else value


def stringify(value: Any, indent: int = 0) -> Any:
    """JSON.stringify."""
    if value is UNDEFINED:
        return UNDEFINED
    return bounded(_json(plain(value), " " * min(max(indent, 0), 10), "\n"))


def _json(value: Any, step: str, line: str) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list):
        return "null" if value is None else to_text(value)
    inner = line + step
    if isinstance(value, dict):
        colon = ": " if step else ":"
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}{colon}{_json(member, step, inner)}"
            for key, member in value.items()
        ]
        opening, closing = "{}"
    else:
        parts = [_json(member, step, inner) for member in value]
        opening, closing = "[]"
    if not parts or not step:
        return opening + ",".join(parts) + closing
    return opening + inner + f",{inner}".join(parts) + line + closing


def parse_json(text: str) -> Any:
    """JSON.parse."""
    try:
        return json.loads(bounded(text), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ScriptError(f"SyntaxError: JSON.parse: {error}"[:200]) from error


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
