"""What is asked and answered about edges as a whole, and about events for them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgesync.cells.scope import GRANT_BYTES_MAX, GRANT_MAX
from hubd.api.entity_shapes import Kind, WaitingView
from hubd.api.params import Body, By, EdgesPage, WaitS
from hubd.api.params import Kind as Named
from hubd.registry import NAME_PATTERN

NewName = Annotated[
    str,
    Meta(description="name of an edge: letters, digits, . _ -, at most 63", pattern=NAME_PATTERN),
]
Label = Annotated[str, Meta(description="up to 255 characters", max_length=255)]
Prefix = Annotated[str, Meta(min_length=1, max_length=GRANT_BYTES_MAX)]
LinkState = Annotated[
    Literal[
        "connected", "processing", "draining", "invited", "revoked", "stopped", "lost",
        "disconnected",
    ],
    Meta(description="connected, processing, draining, invited, revoked, stopped, lost, …"),
]  # fmt: skip


# -- asked ---------------------------------------------------------------------------------------


class EdgesList(EdgesPage, frozen=True, kw_only=True):
    """Which edges; all of what is given has to fit."""

    site: Annotated[Label, Meta(description="where it stands")] | None = None
    type: Annotated[Label, Meta(description="which kind of edge")] | None = None
    customer: Annotated[Label, Meta(description="to whom it is assigned")] | None = None
    state: LinkState | None = None
    text: Annotated[Label, Meta(description="found in name or label")] | None = None


class SaveEdge(Body, frozen=True, kw_only=True):
    """What is left out stays as it is. A name stays for ever; the label is for people."""

    edge: NewName
    site: Annotated[Label, Meta(description="where it stands")] | None = None
    label: Annotated[Label, Meta(description="what people call it")] | None = None
    type: Annotated[Label, Meta(description="which kind of edge")] | None = None
    prefixes: (
        Annotated[
            tuple[Prefix, ...],
            Meta(description="of keys it may be told of; none: all", max_length=GRANT_MAX),
        ]
        | None
    ) = None


class AssignCustomer(Body, frozen=True, kw_only=True):
    """An empty name takes the edge from its customer."""

    customer: Annotated[Label, Meta(description="name of a customer, or empty")]
    by: By = "hub"


class ForgetEdge(Body, frozen=True, kw_only=True):
    """Its key is never let in again, so the name has to be said twice."""

    confirm: Annotated[str, Meta(description="the name of the edge once more", max_length=128)]


class SyncEdge(Body, frozen=True, kw_only=True):
    """`full`: all keys here and there are compared too, and asked for anew if they differ."""

    full: Annotated[bool, Meta(description="whether all is compared")] = True
    ttl_s: Annotated[
        float, Meta(description="seconds until it is given up, 1 to 604800", ge=1, le=604_800)
    ] = 3600.0
    by: By = "hub"
    wait_s: WaitS = 0.0


class CleanDownlink(Body, frozen=True, kw_only=True):
    older_than_s: Annotated[
        float, Meta(description="seconds that it has waited at least", ge=0, le=31_536_000)
    ]


class NewEvent(Body, frozen=True, kw_only=True):
    """An event for an edge: what of docs/api.md its action does there."""

    action: Annotated[Named, Meta(description="such as attributes_updated; none for custom")]
    type: Annotated[str, Meta(description="of what: custom, entity, alarm, …", max_length=64)] = ""
    entity: Annotated[str, Meta(description="name of an entity", max_length=255)] = ""
    kind: Kind = "device"
    body: Annotated[dict[str, Any], Meta(description="what the action needs")] = msgspec.field(
        default_factory=dict
    )
    by: By = "hub"


# -- answered ------------------------------------------------------------------------------------


class EdgeDetails(msgspec.Struct, frozen=True, kw_only=True):
    """An edge as the registry has it. is_new: it was not there; has_joined: a gateway is it."""

    edge: str
    tenant: str
    label: str
    type: str
    site: str
    customer: str
    prefixes: tuple[str, ...]
    created_ns: int
    has_joined: bool
    is_revoked: bool
    is_new: bool = False


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What had not arrived: records there as far as the hub knew, and records for the edge."""

    edge: str
    lag_records: int | None
    downlink_records: int


class MissingChain(msgspec.Struct, frozen=True, kw_only=True):
    """A rule chain of the edge's bundle that leads into one that is not there."""

    chain: str
    lacks: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge lacks. Kept and without effect until it comes: `waiting`; rule chains: `chains`.

    bundle   the rule chains that the edge is to run, with their version; empty for none
    """

    edge: str
    waiting: list[WaitingView]
    chains: list[MissingChain]
    bundle: str


class EventSaved(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was taken. seq: its place in the lane to the edge; 0: it went by keys."""

    edge: str
    type: str
    action: str
    entity: str
    lane: str = ""
    seq: int = 0
