"""[rules] of edge.toml."""

from typing import Annotated

import msgspec
from msgspec import Meta


class RulesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rule chains that decide what becomes of readings. Without `chains` all are stored and sent.

    chains  an export, or a folder of them; relative to the file's folder
    root    name of the chain that messages begin in; empty: the one that says it is the root
    """

    chains: str = ""
    root: Annotated[str, Meta(max_length=255)] = ""
