"""The fenced blocks of the project's documents, and which test does what they say.

A fence with a language is something to be done: a test types it, runs it, or loads it. A fence
without one, or with `text`, shows what is printed, or what bytes look like.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
ILLUSTRATIONS: Final = ("", "text")

# What tests of their own do, from top to bottom: languages, and the heading they stand under.
OWN: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "README.md": (("sh", "Run it"), ("python", "Embed it")),
    "docs/operations.md": (("sh", ""),),
    "docs/edge-guide.md": (("toml", ""), ("sh", ""), ("python", ""), ("redis", "")),
    "docs/sensors.md": (("python", ""),),
}


class Block(NamedTuple):
    language: str
    text: str
    heading: str


def documents() -> list[str]:
    """Return all documents of the project, by their path in it."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    skipped = {"build", "node_modules"}
    return sorted(
        str(path)
        for path in found
        if not any(part in skipped or part.startswith(".") for part in path.parts)
    )


def all_blocks(file: str) -> list[Block]:
    """Return what is to be done in a document, in order."""
    found = list[Block]()
    for part in re.split(r"^## ", (ROOT / file).read_text(), flags=re.M):
        found += [
            Block(language, text, part.partition("\n")[0])
            for language, text in FENCE.findall(part)
            if language not in ILLUSTRATIONS
        ]
    return found


def blocks(file: str, language: str, *, after: str = "") -> list[str]:
    """Return the blocks that a test of its own does: of a language, under a heading."""
    assert (language, after) in OWN[file]
    return [one.text for one in all_blocks(file) if one.language == language
            and after in ("", one.heading)]  # fmt: skip


def others(file: str) -> list[Block]:
    """Return the blocks that no test of its own does."""
    own = OWN.get(file, ())
    return [
        one
        for one in all_blocks(file)
        if (one.language, "") not in own and (one.language, one.heading) not in own
    ]
