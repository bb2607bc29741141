"""A rule chain drawn from above to below: where its nodes are, and the lines between them.

Each node is a row below the last of those that lead to it, and in its row near them. Chains have no
circles: the reader refuses those.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from edgesync.rules.model import RuleChain

NODE_WIDTH: Final = 196
NODE_HEIGHT: Final = 60
GAP_X: Final = 28
GAP_Y: Final = 62
MARGIN: Final = 12
NAME_CHARS: Final = 25
LABEL_CHARS: Final = 30
# What is larger is listed and not drawn: nobody could find anything in it.
NODES_MAX: Final = 150


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A node; x and y of its upper left corner. title has the whole of its name and type."""

    id: str
    name: str
    type: str
    title: str
    x: int
    y: int
    is_first: bool


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A connection: the path, its label and where that is."""

    path: str
    label: str
    x: int
    y: int
    is_failure: bool


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    chain: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def draw(chain: RuleChain) -> Graph | None:
    """Return the drawing of a chain; None when it is too large for one."""
    count = len(chain.nodes)
    if count > NODES_MAX:
        return None
    labels: dict[tuple[int, int], list[str]] = {}
    for one in chain.connections:
        labels.setdefault((one.source, one.target), []).append(one.relation)
    rows = _rows(count, list(labels))
    widest = max((len(row) for row in rows), default=1)
    width = widest * (NODE_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    places = _places(rows, list(labels), width)
    boxes = tuple(
        Box(
            id=node.id, name=shortened(node.name, NAME_CHARS), type=short(node.type),
            title=f"{node.name} ({node.type})", x=places[at][0], y=places[at][1],
            is_first=at == chain.first,
        )
        for at, node in enumerate(chain.nodes)
    )  # fmt: skip
    lines = tuple(
        _line(places[source], places[target], names) for (source, target), names in labels.items()
    )
    height = len(rows) * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    return Graph(chain=chain.name, width=width, height=max(height, 1), boxes=boxes, lines=lines)


def _rows(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the nodes of each row: below all that lead to them."""
    depth, waits = [0] * count, Counter(target for _, target in pairs)
    ready = [at for at in range(count) if not waits[at]]
    for source in ready:  # grows
        for target in [to for at, to in pairs if at == source]:
            depth[target] = max(depth[target], depth[source] + 1)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    rows: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    for at in range(count):
        rows[depth[at]].append(at)
    return [row for row in rows if row]


def _places(
    rows: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]], width: int
) -> dict[int, tuple[int, int]]:
    """Return where each node is; in its row by the middle of those above that lead to it."""
    places: dict[int, tuple[int, int]] = {}
    for nth, row in enumerate(rows):

        def middle(at: int) -> float:
            above = [places[source][0] for source, target in pairs if target == at]
            return sum(above) / len(above) if above else width / 2

        taken = len(row) * (NODE_WIDTH + GAP_X) - GAP_X
        left, y = (width - taken) // 2, MARGIN + nth * (NODE_HEIGHT + GAP_Y)
        for place, at in enumerate(sorted(row, key=middle)):
            places[at] = (left + place * (NODE_WIDTH + GAP_X), y)
    return places


def _line(source: tuple[int, int], target: tuple[int, int], names: Sequence[str]) -> Line:
    x1, y1 = source[0] + NODE_WIDTH // 2, source[1] + NODE_HEIGHT
    x2, y2 = target[0] + NODE_WIDTH // 2, target[1]
    bend = GAP_Y // 2
    # Near its end: lines that leave one node lie over one another at their beginning.
    x, y = x1 + (x2 - x1) * 3 // 4, y2 - 16
    return Line(
        path=f"M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}",
        label=shortened(", ".join(names), LABEL_CHARS), x=x, y=y,
        is_failure=all(name.lower() == "failure" for name in names),
    )  # fmt: skip


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def short(kind: str) -> str:
    """Return what a type is called on a box: its last word, without what all of them have."""
    return kind.rpartition(".")[2].removeprefix("Tb").removesuffix("Node")
