"""Evaluates the tree of an expression.   [sans-IO]

A tree is compiled into closures once, and evaluated for each message: no more steps than the tree
has nodes, and texts no longer than TEXT_CHARS_MAX: a message costs what its script's size allows.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from edgesync.rules.scripts import builtins
from edgesync.rules.scripts.lexer import NotUnderstood
from edgesync.rules.scripts.parser import Tree, parse
from edgesync.rules.scripts.values import (
    NAN,
    UNDEFINED,
    ScriptError,
    bounded,
    equal,
    is_number,
    length,
    normal,
    plain,
    primitive,
    same,
    to_int32,
    to_number,
    to_text,
    to_uint32,
    truth,
    units,
)

Names = Mapping[str, Any]
Evaluate = Callable[[Names], Any]
# Set for each message: the clock that Date.now() shows.
NOW: Final = "Date.now"


class Expression:
    """A script whose body is one expression.

    Raises NotUnderstood for any other body. `names` are those of the arguments.
    """

    def __init__(self, source: str, names: tuple[str, ...], *, is_tbel: bool = False) -> None:
        self._names = names
        parsed = parse(source, is_value_last=is_tbel)
        self._line = parsed.line
        self._evaluate = _Compiler(frozenset(names), is_tbel, parsed.lines).compiled(parsed.tree)

    def __call__(self, arguments: tuple[Any, ...], now_ms: int) -> Any:
        """Return what the script returns, as JSON can say it; raises ScriptError."""
        names = dict(zip(self._names, arguments, strict=True))
        names[NOW] = now_ms
        try:
            return plain(self._evaluate(names))
        except ScriptError as error:
            error.line = error.line or self._line
            raise
        except RecursionError as error:
            raise ScriptError("a value that is nested too deeply") from error


class _Compiler:
    def __init__(self, names: frozenset[str], is_tbel: bool, lines: Mapping[int, int]) -> None:
        self._names = names
        self._is_tbel = is_tbel
        self._lines = lines
        self._functions = {**builtins.FUNCTIONS, **(builtins.TBEL_FUNCTIONS if is_tbel else {})}

    def compiled(self, tree: Tree) -> Evaluate:
        kind, *parts = tree
        made: Evaluate = getattr(self, f"_{kind}")(*parts)
        line = self._lines.get(id(tree))
        return made if line is None else _on_line(line, made)

    def _value(self, value: Any) -> Evaluate:
        return lambda names: value

    def _group(self, tree: Tree) -> Evaluate:
        return self.compiled(tree)

    def _name(self, name: str) -> Evaluate:
        if name in self._names:
            return operator.itemgetter(name)
        if name in builtins.CONSTANTS:
            return self._value(builtins.CONSTANTS[name])
        raise NotUnderstood(f"{name!r} is no name that is known here")

    def _list(self, items: tuple[Tree, ...]) -> Evaluate:
        made = [self.compiled(one) for one in items]
        return lambda names: [one(names) for one in made]

    def _object(self, members: tuple[tuple[str, Tree], ...]) -> Evaluate:
        made = [(name, self.compiled(one)) for name, one in members]
        return lambda names: {name: one(names) for name, one in made}

    def _if(self, condition: Tree, then: Tree, other: Tree) -> Evaluate:
        test, yes, no = (self.compiled(one) for one in (condition, then, other))
        return lambda names: yes(names) if truth(test(names)) else no(names)

    def _unary(self, sign: str, operand: Tree) -> Evaluate:
        if sign == "typeof" and operand[0] == "name" and operand[1] not in self._names:
            known = operand[1] in builtins.CONSTANTS
            return self._value(_type(builtins.CONSTANTS[operand[1]]) if known else "undefined")
        value, apply = self.compiled(operand), UNARY[sign]
        return lambda names: apply(value(names))

    def _binary(self, sign: str, left: Tree, right: Tree) -> Evaluate:
        first, second = self.compiled(left), self.compiled(right)
        if sign == "&&":
            return lambda names: second(names) if truth(value := first(names)) else value
        if sign == "||":
            return lambda names: value if truth(value := first(names)) else second(names)
        if sign == "??":
            return lambda names: (
                second(names) if (value := first(names)) is None or value is UNDEFINED else value
            )
        apply = BINARY[sign]
        return lambda names: apply(first(names), second(names))

    def _namespace(self, tree: Tree, name: str) -> Any:
        """Return a member of Math and the like; None where the tree is something else."""
        if tree[0] != "name" or tree[1] in self._names:
            return None
        if (tree[1], name) == ("Date", "now"):
            return NOW
        space = builtins.NAMESPACES.get(tree[1])
        if space is None:
            return None
        if name not in space:
            raise NotUnderstood(f"{tree[1]}.{name}")
        return space[name]

    def _member(self, tree: Tree, name: str, is_optional: bool) -> Evaluate:
        known = self._namespace(tree, name)
        if known is not None:
            if callable(known) or known is NOW:
                raise NotUnderstood(f"{tree[1]}.{name} without brackets")
            return self._value(known)
        value = self.compiled(tree)
        if _is_optional(tree) or is_optional:
            return lambda names: (
                UNDEFINED
                if (found := value(names)) is None or found is UNDEFINED
                else _member_of(found, name)
            )
        return lambda names: _member_of(value(names), name)

    def _index(self, tree: Tree, index: Tree) -> Evaluate:
        value, at = self.compiled(tree), self.compiled(index)
        return lambda names: _item_of(value(names), at(names))

    def _call(self, name: str, args: tuple[Tree, ...]) -> Evaluate:
        function = None if name in self._names else self._functions.get(name)
        if function is None:
            raise NotUnderstood(f"{name}() is no function that is known here")
        return _called(name, function, [self.compiled(one) for one in args])

    def _method(self, tree: Tree, name: str, args: tuple[Tree, ...], is_optional: bool) -> Evaluate:
        made = [self.compiled(one) for one in args]
        known = self._namespace(tree, name)
        if known is NOW:
            return lambda names: names[NOW]
        if known is not None:
            return _called(name, known, made)
        methods = [kind for kind in METHODS if name in kind[1]]
        if self._is_tbel and name in builtins.TBEL_METHODS:
            methods = [((dict, list, str), builtins.TBEL_METHODS), *methods]
        if not methods:
            raise NotUnderstood(f"the method {name}()")
        value, optional = self.compiled(tree), is_optional or _is_optional(tree)

        def call(names: Names) -> Any:
            found = value(names)
            if optional and (found is None or found is UNDEFINED):
                return UNDEFINED
            for types, table in methods:
                if isinstance(found, types) and not isinstance(found, bool):
                    return _applied(name, table[name], (found, *(one(names) for one in made)))
            if found is None or found is UNDEFINED:
                raise ScriptError(f"TypeError: {to_text(found)} has no {name}()")
            raise ScriptError(f"TypeError: {name} is not a function of {_type(found)}")

        return call


METHODS: Final[tuple[tuple[Any, Mapping[str, Any]], ...]] = (
    (str, builtins.TEXT_METHODS),
    (list, builtins.LIST_METHODS),
    ((int, float), builtins.NUMBER_METHODS),
    (dict, builtins.MAP_METHODS),
)


def _on_line(line: int, evaluate: Evaluate) -> Evaluate:
    def call(names: Names) -> Any:
        try:
            return evaluate(names)
        except ScriptError as error:
            error.line = error.line or line
            raise

    return call


def _is_optional(tree: Tree) -> bool:
    """Return whether a chain of members has a ?. before: then its end is undefined, too."""
    while tree[0] in ("member", "method", "index"):
        if tree[0] != "index" and tree[-1]:
            return True
        tree = tree[1]
    return False


def _called(name: str, function: Any, args: list[Evaluate]) -> Evaluate:
    return lambda names: _applied(name, function, tuple(one(names) for one in args))


def _applied(name: str, function: Any, args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except (TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ScriptError(f"TypeError: {name}() cannot take these arguments") from error


def _member_of(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name, UNDEFINED)
    if value is None or value is UNDEFINED:
        raise ScriptError(
            f"TypeError: cannot read properties of {to_text(value)} (reading {name!r})"
        )
    if name == "length":
        if isinstance(value, list):
            return len(value)
        if isinstance(value, str):
            return length(value)
    return UNDEFINED


def _item_of(value: Any, at: Any) -> Any:
    if isinstance(value, list | str) and is_number(at):
        if not 0 <= at < len(value) or not float(at).is_integer():
            return UNDEFINED
        return value[int(at)]
    if isinstance(value, list) and isinstance(at, str) and at.isdecimal() and len(at) < 10:
        return _item_of(value, int(at))
    return _member_of(value, to_text(at))


def _type(value: Any) -> str:
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "number" if isinstance(value, int | float) else "object"


def _add(left: Any, right: Any) -> Any:
    left, right = primitive(left), primitive(right)
    if isinstance(left, str) or isinstance(right, str):
        return bounded(to_text(left) + to_text(right))
    return _arithmetic(operator.add)(left, right)


def _arithmetic(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def call(left: Any, right: Any) -> Any:
        try:
            return normal(apply(_double(left), _double(right)))
        except OverflowError:
            return NAN

    return call


def _double(value: Any) -> float | int:
    found = to_number(value)
    return normal(found) if isinstance(found, int) else found


def _divided(left: float, right: float) -> float:
    if right == 0:
        if left == 0 or left != left:
            return NAN
        return math.copysign(math.inf, left) * math.copysign(1.0, right)
    return left / right


def _remainder(left: float, right: float) -> float:
    if right == 0 or not math.isfinite(left):
        return NAN
    return math.fmod(left, right)


def _compared(apply: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def call(left: Any, right: Any) -> bool:
        left, right = primitive(left), primitive(right)
        if isinstance(left, str) and isinstance(right, str):
            return apply(units(left), units(right))
        return apply(to_number(left), to_number(right))  # NaN is neither less nor more

    return call


def _in(left: Any, right: Any) -> bool:
    if not isinstance(right, dict | list):
        raise ScriptError("TypeError: `in` needs an object on its right")
    return bool(builtins.MAP_METHODS["hasOwnProperty"](right, left))


UNARY: Final[Mapping[str, Callable[[Any], Any]]] = {
    "!": lambda value: not truth(value),
    "-": lambda value: normal(-_double(value)),
    "+": to_number,
    "~": lambda value: ~to_int32(value),
    "typeof": _type,
}
BINARY: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": _add,
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
    "/": _arithmetic(_divided),
    "%": _arithmetic(_remainder),
    "**": _arithmetic(lambda base, exponent: builtins.power(float(base), float(exponent))),
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "===": same,
    "!==": lambda left, right: not same(left, right),
    "<": _compared(operator.lt),
    ">": _compared(operator.gt),
    "<=": _compared(operator.le),
    ">=": _compared(operator.ge),
    "in": _in,
    "&": lambda left, right: to_int32(left) & to_int32(right),
    "|": lambda left, right: to_int32(left) | to_int32(right),
    "^": lambda left, right: to_int32(left) ^ to_int32(right),
    "<<": lambda left, right: to_int32(to_int32(left) << (to_uint32(right) % 32)),
    ">>": lambda left, right: to_int32(left) >> (to_uint32(right) % 32),
    ">>>": lambda left, right: to_uint32(left) >> (to_uint32(right) % 32),
}
