"""Patterns as Redis has them: what a slow and obvious matcher says, in linear time."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgesync._native.glob import PATTERN_MAX, Glob

pytestmark = pytest.mark.feature("L9")


def obvious(pattern: bytes, name: bytes) -> bool:
    """Match as Redis' stringmatchlen is defined, trying everything."""
    if not pattern:
        return not name
    head, rest = pattern[:1], pattern[1:]
    if head == b"*":
        return any(obvious(rest, name[at:]) for at in range(len(name) + 1))
    if not name:
        return False
    if head == b"?":
        return obvious(rest, name[1:])
    if head == b"[":
        is_in, rest = in_class(rest, name[0])
        return is_in and obvious(rest, name[1:])
    if head == b"\\" and rest:
        head, rest = rest[:1], rest[1:]
    return head == name[:1] and obvious(rest, name[1:])


def in_class(text: bytes, byte: int) -> tuple[bool, bytes]:
    """Return whether `byte` is in the class that begins `text`, and what follows it."""
    is_not = text[:1] == b"^"
    text = text[is_not:]
    found = False
    while text and text[:1] != b"]":
        if text[:1] == b"\\" and len(text) > 1:
            found |= text[1] == byte
            text = text[2:]
        elif len(text) > 2 and text[1:2] == b"-":
            low, high = sorted((text[0], text[2]))
            found |= low <= byte <= high
            text = text[3:]
        else:
            found |= text[0] == byte
            text = text[1:]
    return found != is_not, text[1:]


PIECES = st.sampled_from(
    [b"*", b"**", b"?", b"a", b"b", b"\xff", b"\\", b"\\*", b"[ab]", b"[^a]", b"[b-a]", b"[", b"]",
     b"[a", b"[^", b"[\\]]", b"[a-", b"-", b"[]"]
)  # fmt: skip


NAMES = st.sampled_from([b"a", b"b", b"]", b"-", b"*", b"\\", b"\xff"])


@given(st.lists(PIECES, max_size=7).map(b"".join), st.lists(NAMES, max_size=6).map(b"".join))
@example(b"*a*b", b"aab")
@example(b"a\\", b"a\\")
@example(b"[\\", b"\\")
def test_a_name_matches_as_the_obvious_matcher_says(pattern: bytes, name: bytes) -> None:
    assert Glob(pattern).matches(name) is obvious(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        (b"", [b""], [b"a"]),
        (b"*", [b"", b"a", b"\0\xff"], []),
        (b"h?llo", [b"hello", b"h*llo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeello"], [b"hll"]),
        (b"h[a-c]llo", [b"hallo", b"hcllo"], [b"hdllo", b"h-llo"]),
        (b"h[^a]llo", [b"hbllo", b"h^llo"], [b"hallo"]),
        (b"[\x00-\x7f]", [b"\0", b"\x7f"], [b"\x80"]),
        (b"[\xf8-\xff]", [b"\xff", b"\xf8"], [b"\xf7", b"\x07"]),
        (b"a\\*", [b"a*"], [b"ab"]),
        (b"*ab*ab", [b"abab", b"xabyab", b"ababab"], [b"ab", b"abac"]),
    ],
)
def test_patterns_of_redis(pattern: bytes, fits: list[bytes], fits_not: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [one for one in fits if not glob.matches(one)] == []
    assert [one for one in fits_not if glob.matches(one)] == []


def test_a_pattern_has_a_limit() -> None:
    assert Glob(b"a" * PATTERN_MAX).matches(b"a" * PATTERN_MAX)
    assert Glob(b"[" * PATTERN_MAX).matches(b"[")
    with pytest.raises(ValueError, match=f"at most {PATTERN_MAX}"):
        Glob(b"a" * (PATTERN_MAX + 1))


def test_many_stars_cost_no_more_than_their_length_for_each_byte() -> None:
    """Were what a star took tried again, this would not end."""
    assert not Glob(b"a*" * 2000 + b"b").matches(b"a" * 100_000)
