"""JSON of devices into values, typed as ThingsBoard types them.   [sans-IO]

A number without a fraction, `1e3` too, is a whole number; one written with a point is a float. Text
that is a number becomes one, if `cast` is on. What neither a 64-bit number nor 16 decimals hold
becomes text then, and is refused otherwise. Objects and lists are kept as JSON; null is left out.
"""

import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from edgesync.model import I64, NAME_CHARS_MAX, TEXT_BYTES_MAX, Value

DECIMALS_MAX: Final = 16
# Written out, 1e999999999 would fill the memory.
DIGITS_MAX: Final = 1000
NANOS: Final = 1_000_000
# Errors are told, stored and shown; names of members are as long as a message.
FIELD_CHARS_MAX: Final = 100
PROBLEM_CHARS_MAX: Final = 200
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
_FIRST: Final = frozenset("-.0123456789")


class BadPayload(ValueError):
    """A device's message that cannot be stored; `field` says where in it.

    Both are told, stored and shown, so halves of surrogate pairs, which JSON may have, are `?`.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = _encodable(field[:FIELD_CHARS_MAX])
        self.problem = _encodable(problem[:PROBLEM_CHARS_MAX])
        super().__init__(f"{self.field}: {self.problem}")


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


class _Odd(str):
    """The digits of a number that is neither a 64-bit number nor a float of 16 decimals."""

    __slots__ = ()


def parse_json(payload: bytes) -> Any:
    """Return what `payload` says; raises BadPayload."""
    try:
        return _DECODER.decode(payload.decode())
    except UnicodeDecodeError as error:
        raise BadPayload("payload", "is not UTF-8") from error
    except RecursionError as error:
        raise BadPayload("payload", "is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadPayload("payload", f"is not JSON: {error.msg} at {error.pos}") from error


def typed(field: str, value: Any, *, cast: bool) -> Value | None:
    """Return a member's value as it is stored, None for null; raises BadPayload."""
    kind = type(value)
    if kind is float or kind is int or kind is bool or value is None:
        return value  # type: ignore[no-any-return]
    if kind is _Odd:
        if not cast:
            raise BadPayload(field, f"{value[:40]} is beyond 64 bits or {DECIMALS_MAX} decimals")
        return _written_out(field, value)
    if kind is str:
        if cast and value and value[0] in _FIRST and _NUMBER.fullmatch(value):
            return number_as_stored(field, value)
        text = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except RecursionError as error:
            raise BadPayload(field, "is nested too deeply") from error
    return checked_text(field, text)


def attribute(field: str, value: Any, *, cast: bool) -> Any:
    """Return an attribute's value, which may be an object or a list; raises BadPayload."""
    if isinstance(value, dict | list):
        return _plain(field, value)
    return typed(field, value, cast=cast)


def _plain(field: str, value: Any) -> Any:
    """Return JSON in which odd numbers are the text that they were written as."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise BadPayload(field, "is nested too deeply") from error
    checked_text(field, text)
    return json.loads(text)


def checked_text(field: str, text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadPayload(field, "half of a surrogate pair") from error
    if size > TEXT_BYTES_MAX:
        raise BadPayload(field, f"text of {size} bytes; {TEXT_BYTES_MAX} are the most")
    return text


def checked_name(field: str, name: Any) -> str:
    """Return the name of an entity or a key."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        raise BadPayload(field, f"a name has 1 to {NAME_CHARS_MAX} characters")
    return name if name.isascii() else checked_text(field, name)


def number(text: str) -> int | float | str:
    """Return the number that `text` writes; what no number holds stays text."""
    try:
        decimal = Decimal(text)
    except InvalidOperation:  # an exponent that no Decimal has
        return _Odd(text)
    _, digits, exponent = decimal.as_tuple()
    assert isinstance(exponent, int)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    has_fraction = any(digits) and exponent + zeros < 0
    is_point = "." in text and "e" not in text and "E" not in text
    if not has_fraction and not is_point:
        if len(digits) + exponent <= 20 and -I64 <= (found := int(decimal)) < I64:
            return found
        return 0 if not any(digits) else _Odd(text)
    if -exponent <= DECIMALS_MAX and math.isfinite(value := float(decimal)):
        return value
    return _Odd(text)


def number_as_stored(field: str, text: str) -> int | float | str:
    """Return the number that `text` writes, or its digits where no number holds it.

    Raises BadPayload.
    """
    found = number(text)
    return _written_out(field, found) if type(found) is _Odd else found


def _written_out(field: str, text: str) -> str:
    """Return a number's digits without an exponent."""
    problem = f"a number of more than {DIGITS_MAX} digits"
    try:
        decimal = Decimal(text)
    except InvalidOperation as error:
        raise BadPayload(field, problem) from error
    _, digits, exponent = decimal.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) + abs(exponent) > DIGITS_MAX:
        raise BadPayload(field, problem)
    return format(decimal, "f")


def _whole(text: str) -> int | float | str:
    return int(text) if len(text) <= 18 else number(text)


def _fraction(text: str) -> int | float | str:
    if len(text) <= DECIMALS_MAX and "e" not in text and "E" not in text:
        return float(text)
    return number(text)


def _refuse_constant(text: str) -> NoReturn:
    raise BadPayload("payload", f"is not JSON: {text}")


_DECODER = json.JSONDecoder(
    parse_int=_whole, parse_float=_fraction, parse_constant=_refuse_constant
)


def nanoseconds(field: str, ms: Any) -> int:
    """Return a time in milliseconds since 1970 as nanoseconds; raises BadPayload."""
    if type(ms) is str and _NUMBER.fullmatch(ms):
        ms = number(ms)
    if type(ms) is float and math.isfinite(ms):
        ms = int(ms)
    if type(ms) is not int:
        raise BadPayload(field, "is no time in milliseconds since 1970")
    return in_range(field, ms * NANOS)


def in_range(field: str, time_ns: int) -> int:
    if not -I64 <= time_ns < I64:
        raise BadPayload(field, "is no time between the years 1678 and 2262")
    return time_ns
