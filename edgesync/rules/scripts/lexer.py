"""Text of a script into tokens: what JavaScript and TBEL have in common.   [sans-IO]"""

import re
from typing import Final

import msgspec

TOKENS_MAX: Final = 20_000

_SPACE: Final = re.compile(r"(?:[ \t\r\n\v\f\ufeff\xa0]+|//[^\n]*|/\*.*?\*/)+", re.S)
_NAME: Final = re.compile(r"[A-Za-z_$][\w$]*")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_MARK: Final = re.compile(
    r">>>=|\.\.\.|===|!==|\*\*=|<<=|>>=|>>>|&&=|\|\|=|\?\?=|=>|==|!=|<=|>=|&&|\|\||\?\?|\?\.(?!\d)"
    r"|\+\+|--|\+=|-=|\*=|/=|%=|&=|\|=|\^=|<<|>>|\*\*|[{}()\[\];,<>+\-*/%&|^!~?:=.]"
)
_ESCAPES: Final = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": "",
}  # fmt: skip
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|(.))", re.S
)
_STRINGS: Final = {
    quote: re.compile(rf"{quote}((?:[^{quote}\\\n]|\\.)*){quote}", re.S) for quote in "'\""
}
# After these a slash divides; after anything else it begins a regular expression.
_ENDS_VALUE: Final = frozenset(")]}")


class NotUnderstood(Exception):
    """A script that is not of the part of the language that is read here."""


class Token(msgspec.Struct, frozen=True):
    """kind is name, number, text, mark or end; `is_first` on its line."""

    kind: str
    text: str
    value: float | int | str = ""
    at: int = 0
    is_first: bool = False


def tokens(source: str) -> list[Token]:
    """Return the tokens of a script, an `end` behind them; raises NotUnderstood."""
    found: list[Token] = []
    at, size, line_ended = 0, len(source), False
    while True:
        if space := _SPACE.match(source, at):
            at = space.end()
            line_ended = "\n" in space[0]
        if at >= size:
            return [*found, Token("end", "", at=at)]
        if len(found) >= TOKENS_MAX:
            raise NotUnderstood(f"more than {TOKENS_MAX} words and signs")
        token, at = _token(source, at, found, line_ended)
        found.append(token)
        line_ended = False


def _token(source: str, at: int, before: list[Token], is_first: bool) -> tuple[Token, int]:
    char = source[at]
    if match := _NAME.match(source, at):
        return Token("name", match[0], at=at, is_first=is_first), match.end()
    if match := _NUMBER.match(source, at):
        if _NAME.match(source, match.end()):
            raise NotUnderstood(f"{source[at : at + 20]!r} is no number")
        return Token("number", match[0], _number(match[0]), at, is_first), match.end()
    if char in _STRINGS:
        match = _STRINGS[char].match(source, at)
        if match is None:
            raise NotUnderstood("a text without an end")
        return Token("text", match[0], _unescaped(match[1]), at, is_first), match.end()
    if char == "/" and not _divides(before):
        raise NotUnderstood("a regular expression")
    if match := _MARK.match(source, at):
        return Token("mark", match[0], at=at, is_first=is_first), match.end()
    raise NotUnderstood(f"{char!r}")


def _divides(before: list[Token]) -> bool:
    if not before:
        return False
    last = before[-1]
    if last.kind == "mark":
        return last.text in _ENDS_VALUE
    return last.text not in ("return", "typeof", "in", "of", "case", "else", "void", "delete")


def _number(text: str) -> float | int:
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    if text.isdecimal():
        if len(text) > 1 and text[0] == "0":
            raise NotUnderstood("a number that begins with 0")
        return int(text) if len(text) < 16 else float(text)
    return float(text)


def _unescaped(text: str) -> str:
    def char(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code is None:
            return _ESCAPES.get(match[4], match[4])
        if int(code, 16) > 0x10FFFF:
            raise NotUnderstood(f"\\u{{{code}}} is no character")
        return chr(int(code, 16))

    return _ESCAPE.sub(char, text) if "\\" in text else text
