"""What is asked and answered about rule chains."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hubd.api.entity_shapes import Kind, Name
from hubd.api.params import Body, EdgeName, Params
from hubd.registry.names import NAME_PATTERN
from hubd.rules.bundles import BundleView

BundleName = Annotated[
    str, Meta(description="name of a bundle: letters, digits, . _ -", pattern=NAME_PATTERN)
]
Version = Annotated[int, Meta(description="of the bundle; 0 is its newest", ge=0, le=1 << 53)]
EDGES_MAX = 1000
Edges = Annotated[
    tuple[EdgeName, ...],
    Meta(description=f"1 to {EDGES_MAX} edges", min_length=1, max_length=EDGES_MAX),
]


class OneBundle(Params, frozen=True, kw_only=True):
    bundle: BundleName
    version: Version = 0


class Upload(Body, frozen=True, kw_only=True):
    """Exports of chains and device profiles: the next version of a bundle."""

    name: BundleName
    files: Annotated[
        dict[str, Any], Meta(description="exports by file name: as JSON, or text that holds it")
    ]
    root: Annotated[
        str, Meta(description="the chain that messages begin in; empty: the one that says so")
    ] = ""


class Assign(Body, frozen=True, kw_only=True):
    edges: Edges
    version: Version = 0


class Unassign(Body, frozen=True, kw_only=True):
    edges: Edges


class Run(Body, frozen=True, kw_only=True):
    """A message for a dry run: nothing is stored or sent. Without a bundle it is the assigned one.

    Without a `message` it has the newest readings of the entity.
    """

    bundle: BundleName | None = None
    version: Version = 0
    message: Annotated[Any, Meta(description="its data; null: the newest readings")] = None
    entity: Name = "device"
    kind: Kind = "device"
    type: Annotated[str, Meta(description="as in docs/rules.md", min_length=1, max_length=255)] = (
        "POST_TELEMETRY_REQUEST"
    )
    metadata: Annotated[Mapping[str, str], Meta(description="beside what is always there")] = (
        msgspec.field(default_factory=dict)
    )


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What each node made of a message, and what would have been stored and sent."""

    bundle: str
    version: int
    message: Any
    visits: list[dict[str, Any]]
    effects: list[dict[str, Any]]


class BundleList(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of bundles, the newest of each first."""

    bundles: list[BundleView]


class BundleContents(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a bundle, with the exports it consists of, as text."""

    bundle: BundleView
    files: dict[str, str]


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """Which edges are to run which version now; unassigned: those that had one and have none."""

    bundle: str = ""
    version: int = 0
    edges: list[str] = []
    unassigned: list[str] = []
