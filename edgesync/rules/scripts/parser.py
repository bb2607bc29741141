"""A script that returns one expression, as a tree.   [sans-IO]

The tree is made of tuples, the kind first. What may stand in it is what is listed here; everything
else is NotUnderstood. There are no loops, functions or assignments, so evaluating a tree takes
about as many steps as it has nodes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from edgesync.rules.scripts.lexer import NotUnderstood, Token, tokens

Tree = tuple[Any, ...]

DEPTH_MAX: Final = 64
NODES_MAX: Final = 4_000
BINARY: Final = {
    "??": 1, "||": 2, "&&": 3, "|": 4, "^": 5, "&": 6,
    "==": 7, "!=": 7, "===": 7, "!==": 7,
    "<": 8, ">": 8, "<=": 8, ">=": 8, "in": 8,
    "<<": 9, ">>": 9, ">>>": 9, "+": 10, "-": 10, "*": 11, "/": 11, "%": 11,
}  # fmt: skip
POWER: Final = 12
UNARY: Final = frozenset({"!", "-", "+", "~", "typeof"})
WORDS: Final = {"true": True, "false": False, "null": None}
RESERVED: Final = frozenset(
    [
        "return",
        "var",
        "let",
        "const",
        "if",
        "else",
        "for",
        "while",
        "do",
        "function",
        "new",
        "delete",
        "void",
        "this",
        "switch",
        "case",
        "break",
        "continue",
        "throw",
        "try",
        "catch",
        "finally",
        "class",
        "await",
        "async",
        "yield",
        "instanceof",
        "import",
        "export",
        "super",
        "debugger",
        "with",
        "default",
        "foreach",
        "of",
        "def",
    ]
)


class Parsed(NamedTuple):
    """`lines` has those of trees that are not on the line of the first word, by identity."""

    tree: Tree
    line: int
    lines: Mapping[int, int]


def parse(source: str, *, is_value_last: bool = False) -> Parsed:
    """Return the expression that a body returns; raises NotUnderstood.

    is_value_last   a body is its last expression, `return` or not, as in TBEL
    """
    parser = _Parser(source)
    return Parsed(parser.body(is_value_last), parser.first_line, parser.lines)


def _trees(parts: Tree) -> Iterator[Any]:
    """Return what may be the trees in the parts of one."""
    for part in parts:
        yield part
        if isinstance(part, tuple):
            for one in part:
                yield one
                if isinstance(one, tuple):
                    yield from one


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = tokens(source)
        self._at = 0
        self._nodes = 0
        self.first_line = self._line()
        self.lines: dict[int, int] = {}
        self._depths: dict[int, int] = {}  # of the trees made so far, by their identity

    def body(self, is_value_last: bool) -> Tree:
        if self._next.text == "return" and self._next.kind == "name":
            self._at += 1
            # JavaScript ends the statement where the line ends, and returns nothing.
            if self._next.is_first:
                raise NotUnderstood("a line break after return")
        elif not is_value_last:
            raise NotUnderstood("a body that does not begin with return")
        tree = self._expression(0)
        while self._takes(";"):
            pass
        if self._next.kind != "end":
            raise NotUnderstood(f"{self._next.text!r} after the expression")
        return tree

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _takes(self, mark: str) -> bool:
        if self._next.kind == "mark" and self._next.text == mark:
            self._at += 1
            return True
        return False

    def _needs(self, mark: str) -> None:
        if not self._takes(mark):
            raise NotUnderstood(f"{self._next.text or 'the end'!r} where {mark!r} is needed")

    def _node(self, *parts: Any) -> Tree:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise NotUnderstood(f"an expression of more than {NODES_MAX} parts")
        below = max((self._depths.get(id(one), 0) for one in _trees(parts)), default=0)
        if below >= DEPTH_MAX * 2:
            raise NotUnderstood(f"an expression of more than {DEPTH_MAX * 2} parts in a row")
        self._depths[id(parts)] = below + 1
        if (line := self._line()) != self.first_line:
            self.lines[id(parts)] = line
        return parts

    def _line(self) -> int:
        """Return the line of the word or sign before the next one, or of the first."""
        return self._source.count("\n", 0, self._tokens[max(self._at - 1, 0)].at) + 1

    def _expression(self, depth: int) -> Tree:
        if depth > DEPTH_MAX:
            raise NotUnderstood(f"an expression nested more than {DEPTH_MAX} deep")
        condition = self._binary(0, depth)
        if not self._takes("?"):
            return condition
        then = self._expression(depth + 1)
        self._needs(":")
        return self._node("if", condition, then, self._expression(depth + 1))

    def _binary(self, least: int, depth: int) -> Tree:
        left = self._unary(depth)
        while True:
            sign = self._next.text if self._next.kind in ("mark", "name") else ""
            level = BINARY.get(sign, 0)
            if level <= least:
                return left
            self._at += 1
            right = self._binary(level, depth + 1)
            if {sign, left[1] if left[0] == "binary" else ""} >= {"??", "||"}:
                raise NotUnderstood("?? beside || without brackets")
            left = self._node("binary", sign, left, right)

    def _unary(self, depth: int) -> Tree:
        if depth > DEPTH_MAX:
            raise NotUnderstood(f"an expression nested more than {DEPTH_MAX} deep")
        sign = self._next.text
        if self._next.kind in ("mark", "name") and sign in UNARY:
            self._at += 1
            operand = self._unary(depth + 1)
            if operand[:2] == ("binary", "**"):
                raise NotUnderstood("** after a sign, without brackets")
            return self._node("unary", sign, operand)
        base = self._postfix(depth)
        if self._takes("**"):
            return self._node("binary", "**", base, self._unary(depth + 1))
        return base

    def _postfix(self, depth: int) -> Tree:
        tree = self._primary(depth)
        while True:
            if self._takes("."):
                tree = self._member(tree, self._name(), depth, is_optional=False)
            elif self._takes("?."):
                if self._next.kind != "name":
                    raise NotUnderstood("?. before something that is no name")
                tree = self._member(tree, self._name(), depth, is_optional=True)
            elif self._takes("["):
                index = self._expression(depth + 1)
                self._needs("]")
                tree = self._node("index", tree, index)
            else:
                return tree

    def _member(self, tree: Tree, name: str, depth: int, *, is_optional: bool) -> Tree:
        if self._takes("("):
            return self._node("method", tree, name, self._until(")", depth), is_optional)
        return self._node("member", tree, name, is_optional)

    def _primary(self, depth: int) -> Tree:
        token = self._next
        self._at += 1
        match token.kind:
            case "number" | "text":
                return self._node("value", token.value)
            case "name":
                return self._named(token.text, depth)
            case "mark" if token.text == "(":
                tree = self._expression(depth + 1)
                self._needs(")")
                return self._node("group", tree)
            case "mark" if token.text == "[":
                return self._node("list", self._until("]", depth))
            case "mark" if token.text == "{":
                return self._node("object", self._members(depth))
        raise NotUnderstood(f"{token.text or 'the end'!r} where a value is needed")

    def _named(self, name: str, depth: int) -> Tree:
        if name in WORDS:
            return self._node("value", WORDS[name])
        if name in RESERVED or name in UNARY or name == "in":
            raise NotUnderstood(f"{name!r} where a value is needed")
        if self._takes("("):
            return self._node("call", name, self._until(")", depth))
        return self._node("name", name)

    def _until(self, mark: str, depth: int) -> tuple[Tree, ...]:
        found: list[Tree] = []
        while not self._takes(mark):
            found.append(self._expression(depth + 1))
            if not self._takes(","):
                self._needs(mark)
                break
        return tuple(found)

    def _members(self, depth: int) -> tuple[tuple[str, Tree], ...]:
        found: list[tuple[str, Tree]] = []
        while not self._takes("}"):
            token = self._next
            self._at += 1
            if token.kind not in ("name", "text", "number"):
                raise NotUnderstood(f"{token.text!r} where the name of a member is needed")
            name = str(token.value) if token.kind != "name" else token.text
            if self._takes(":"):
                found.append((name, self._expression(depth + 1)))
            elif token.kind == "name" and self._next.text in (",", "}"):
                found.append((name, self._named(name, depth)))
            else:
                raise NotUnderstood(f"{self._next.text!r} after the name of a member")
            if not self._takes(","):
                self._needs("}")
                break
        return tuple(found)

    def _name(self) -> str:
        token = self._next
        if token.kind != "name":
            raise NotUnderstood(f"{token.text or 'the end'!r} where a name is needed")
        self._at += 1
        return token.text
