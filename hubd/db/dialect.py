"""Statements and types that are not the same in SQLite and in PostgreSQL.

`insert` makes statements with `on_conflict_do_update` and `on_conflict_do_nothing`, which both
write alike.
"""

import re
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert

# PostgreSQL has no text with a NUL, nor one that is no UTF-8. In such a text these code points,
# which Unicode leaves to a program's own use, stand for what cannot be said.
ESCAPE, NUL, BYTE, NIBBLES = "\ufdd0", "\ufdd1", "\ufdd2", 0xFDE0
SPECIAL: Final = re.compile("[\0\ufdd0-\ufdef\udc80-\udcff]")
ESCAPED: Final = re.compile("\ufdd1|\ufdd2..|\ufdd0.", re.DOTALL)


class Text(sa.types.TypeDecorator[str]):
    """A text of any characters, which are compared and sorted by their code points."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        collation = None if dialect.name == "sqlite" else "C"
        return dialect.type_descriptor(sa.Text(collation=collation))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None or dialect.name == "sqlite" else escape(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None or dialect.name == "sqlite" else unescape(value)


class TextBytes(sa.types.TypeDecorator[bytes]):
    """Bytes that are nearly always a text: in PostgreSQL they are one, to be read and searched."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.LargeBinary())
        return dialect.type_descriptor(sa.Text(collation="C"))

    def process_bind_param(self, value: bytes | None, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "sqlite":
            return value
        return escape(value.decode("utf-8", "surrogateescape"))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> bytes | None:
        if value is None or dialect.name == "sqlite":
            return value  # type: ignore[no-any-return]
        return unescape(value).encode("utf-8", "surrogateescape")


def escape(text: str) -> str:
    """Return a text that PostgreSQL takes; it is the same for all but very few."""
    if text.isascii() and "\0" not in text:
        return text
    return SPECIAL.sub(_escaped, text)


def unescape(text: str) -> str:
    return text if text.isascii() else ESCAPED.sub(_unescaped, text)


def _escaped(found: re.Match[str]) -> str:
    mark = found[0]
    if mark == "\0":
        return NUL
    if mark < "\ue000":  # of a byte that is no UTF-8
        byte = ord(mark) & 0xFF
        return BYTE + chr(NIBBLES + (byte >> 4)) + chr(NIBBLES + (byte & 15))
    return ESCAPE + mark


def _unescaped(found: re.Match[str]) -> str:
    mark = found[0]
    if mark == NUL:
        return "\0"
    if mark[0] == BYTE:
        high, low = ord(mark[1]) - NIBBLES, ord(mark[2]) - NIBBLES
        return chr(0xDC00 + (high << 4 | low))
    return mark[1]
