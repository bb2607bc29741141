import itertools

import pytest

from edgesync.serve.mqtt.topics import is_valid_filter, matches, overlap


@pytest.mark.parametrize(
    ("topic_filter", "topic", "is_matched"),
    [
        # The examples of section 4.7.1.
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "a/b", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("ACCOUNTS", "Accounts", False),
    ],
)
def test_a_filter_matches_as_the_standard_says(
    topic_filter: str, topic: str, is_matched: bool
) -> None:
    assert is_valid_filter(topic_filter)
    assert matches(topic_filter, topic) is is_matched


@pytest.mark.parametrize("one", ["", "a/#/b", "a#", "+a", "a/b+", "##", "/" * 64])
def test_a_wildcard_stands_alone_and_hash_at_the_end(one: str) -> None:
    assert not is_valid_filter(one)


LEVELS = ("a", "b", "+", "#")
FILTERS = [
    "/".join(levels)
    for count in (1, 2, 3)
    for levels in itertools.product(LEVELS, repeat=count)
    if is_valid_filter("/".join(levels))
]
TOPICS = [
    "/".join(levels) for count in (1, 2, 3, 4) for levels in itertools.product("ab", repeat=count)
]


def test_two_filters_overlap_where_a_topic_matches_both() -> None:
    for one, other in itertools.product(FILTERS, FILTERS):
        is_shared = any(matches(one, topic) and matches(other, topic) for topic in TOPICS)
        assert overlap(one, other) is is_shared, (one, other)
