"""Asking the hub for its keys, one page after the other.                                 [sans-IO]

There is one question at a time. What answers another one came late, and is dropped; what does not
come is asked for again: a page taken twice changes nothing.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from edgesync._native import pack
from edgesync._native.cells import Entry, decode_entries
from edgesync.errors import RecordError
from edgesync_transport.messages import Page, Pull

# One key comes whole, however large; more than this is no key edgesync has ever taken.
PAGE_BYTES_MAX: Final = 256 << 20


class Puller:
    """See the module."""

    def __init__(self) -> None:
        self.question: Pull | None = None
        self._token = 0
        self._parts: list[bytes] = []

    def ask(self, question: Pull) -> Pull:
        """Begin a question, which makes any before it void."""
        self._token += 1
        self._parts = []
        self.question = msgspec.structs.replace(question, token=self._token, part=0)
        return self.question

    def heard(self, page: Page) -> Pull | Page | None:
        """Take an answer: the question for its next part, or the last part, or None for neither.

        The last part comes back with the whole payload.
        """
        asked = self.question
        if asked is None or (page.epoch, page.token) != (asked.epoch, asked.token):
            return None
        if page.replica != asked.replica or page.keyspace != asked.keyspace:
            self.question = None
            return page
        if page.part != len(self._parts):
            return None
        self._parts.append(page.payload)
        if page.part + 1 < page.parts:
            self.question = msgspec.structs.replace(asked, part=page.part + 1)
            return self.question
        self.question = None
        return msgspec.structs.replace(page, payload=b"".join(self._parts))


def entries_of(page: Page) -> list[Entry]:
    """Return the keys of a whole page; raises RecordError."""
    if not page.payload:
        return []
    try:
        return decode_entries(pack.unpack(page.payload, limit_bytes=PAGE_BYTES_MAX))
    except ValueError as error:
        raise RecordError(f"a page of keys: {error}") from error


def told_digest(total: int) -> int:
    """Return a digest as it is told: 64 bits, and never 0, which tells nothing."""
    return total % (1 << 64) or 1


def payload_of(entries: Sequence[Entry], encoded: bytes) -> bytes:
    """Undo `entries_of`, for the hub: nothing for no keys."""
    return pack.pack(encoded) if entries else b""
