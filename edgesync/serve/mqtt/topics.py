"""Topic filters: which are valid, what they match, whether two have a topic in common.   [sans-IO]

Sections 4.7 of both versions. A pattern is a filter, too: what a server may send on.
"""

from collections.abc import Sequence

LEVELS_MAX = 64


def is_valid_filter(topic_filter: str) -> bool:
    """Return whether `+` and `#` stand where they may."""
    levels = topic_filter.split("/")
    if not topic_filter or len(levels) > LEVELS_MAX or "#" in levels[:-1]:
        return False
    return not any(len(level) > 1 and ("+" in level or "#" in level) for level in levels)


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether a valid filter matches a topic's name."""
    if topic_filter == topic:
        return True
    if topic.startswith("$") and not topic_filter.startswith("$"):
        return False
    return _match(topic_filter.split("/"), topic.split("/"))


def _match(wanted: Sequence[str], levels: Sequence[str]) -> bool:
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index == len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def overlap(first: str, second: str) -> bool:
    """Return whether some topic is matched by both of two valid filters."""
    one, other = first.split("/"), second.split("/")
    for mine, theirs in zip(one, other, strict=False):
        if "#" in (mine, theirs):
            return True
        if mine != theirs and "+" not in (mine, theirs):
            return False
    longer = one if len(one) > len(other) else other
    least = min(len(one), len(other))
    return len(one) == len(other) or (len(longer) == least + 1 and longer[-1] == "#")
