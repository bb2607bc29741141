"""The messages of a link, as typed values.

Frozen structs cross every border; `wire.py` turns them into Cap'n Proto and back. A message is
about one link between one edge and the hub. Which edge that is comes from the CURVE key the
connection authenticated with, never from a field in here (I12).

Both directions speak the same words: the side that has events to deliver is the *sender*, the side
that makes them durable is the *receiver*.
"""

import enum
from typing import Final

import msgspec

PROTOCOL_VERSION: Final = 1
PROTOCOL_VERSION_OLDEST: Final = 1


class Feature(enum.IntFlag):
    """What a side can do beyond the first release of its protocol; used when both sides say so.

    A codec of payloads beyond those of protocol 1 is a feature, too: whoever cannot read it, is not
    sent it.
    """

    DOWNLINK = 1  # lanes from the hub to the edge
    RESENT = 2  # the hub compares readings of RESENT records with what it has
    TUNNEL = 4  # the edge lets the hub connect to some of what it can reach
    OBJECTS = 8  # the edge holds large objects that the hub assigns to it


class Lane(enum.IntEnum):
    """An ordered stream with its own sequence; lower numbers are served first."""

    CRITICAL = 0
    NORMAL = 1
    BULK = 2


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that travels on a link."""


class LaneOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender has on one lane: records `trimmed + 1 .. tail`.

    start   seq before the first record of this incarnation. A fork keeps seqs and chains and only
            takes a new incarnation, so a lane need not begin at 1; a receiver that has never seen
            the incarnation takes `start` as its floor.
    """

    tail: int
    trimmed: int
    start: int = 0
    start_chain: int = 0


class LaneFloor(msgspec.Struct, frozen=True, kw_only=True):
    """Where the receiver stands on one lane of one incarnation.

    floor   highest seq that is durable here; all before it are too
    chain   the sender's running hash at `floor`, as it was delivered; 0 at floor 0
    safe    highest seq that every backup the receiver may be restored from contains (I3)
    """

    floor: int
    chain: int
    safe: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver takes: more of it in one batch is refused before it is read."""

    batch_records: int = 65_536
    batch_bytes: int = 512 * 1024
    window_batches: int = 16
    window_bytes: int = 4 * 1024 * 1024


class Hello(Message, frozen=True, kw_only=True):
    """The edge asks for a session. The nonce is fresh and used once (R3).

    features          bits of Feature
    down_incarnation  of the hub's journal for this edge, as it is known here; none before that
    down_floors       where each lane of it stands here; none without the feature
    """

    nonce: int
    protocol_oldest: int = PROTOCOL_VERSION_OLDEST
    protocol_newest: int = PROTOCOL_VERSION
    incarnation: bytes  # 16 random bytes
    lanes: tuple[LaneOffer, LaneOffer, LaneOffer]
    clock_ns: int
    software: str = ""
    heartbeat_s: float = 5.0
    config_revision: int = 0
    last_start: int = 0  # the hub's start it spoke with last; 0: none, or not known
    features: int = 0
    down_incarnation: bytes = b""
    down_floors: tuple[LaneFloor, ...] = ()


class Welcome(Message, frozen=True, kw_only=True):
    """The receiver grants a session; every older session of this edge is over (I6).

    spread_s   edges that lose this receiver together come back one by one over so long
    features   of those of the Hello, the ones that this session has

    down_incarnation, down_offers   the hub's journal for the edge, as `incarnation` and `lanes` of
                                    a Hello are the edge's for the hub
    edge       what the receiver calls the sender; "": one of before does not tell
    """

    nonce: int
    protocol: int
    epoch: int
    generation: bytes  # 16 random bytes, new when the receiver's store is created or restored
    lanes: tuple[LaneFloor, LaneFloor, LaneFloor]
    limits: Limits = Limits()
    clock_ns: int
    heartbeat_s: float = 5.0
    restore_safe: bool = False  # False: safe is merely the floor, there is no backup
    start: int = 0  # random, of this start of the receiver: two with one identity differ in it
    spread_s: float = 0.0
    features: int = 0
    down_incarnation: bytes = b""
    down_offers: tuple[LaneOffer, ...] = ()
    edge: str = ""


class RefuseCode(enum.IntEnum):
    BAD_CREDENTIALS = 1
    UNSUPPORTED_VERSION = 2
    SUPERSEDED = 3
    RATE_LIMITED = 4
    UNAVAILABLE = 5
    STALE_EPOCH = 6


class Refused(Message, frozen=True, kw_only=True):
    """No session: the answer to a Hello, or the end of a session that was superseded."""

    nonce: int  # 0 when it ends a running session
    epoch: int  # 0 when it answers a Hello
    code: RefuseCode
    reason: str
    retry_after_s: float = 0.0


class Codec(enum.IntEnum):
    """How the payload of a batch is packed (`edgesync._native.batch`)."""

    ROWS = 0
    COLUMNS = 1
    DEAD = 2  # one record the receiver refused: kept as a dead letter, effects nothing (R12)
    GAP = 3  # records the sender no longer has: no payload, the reason says why (R8)
    PROPOSAL = 4  # never on the wire: what a hub does by itself, in its log


class Batch(Message, frozen=True, kw_only=True):
    """Records `first .. last` of one lane. The payload travels in a frame of its own.

    prev_chain is the running hash before `first`, last_chain the one at `last`.
    """

    epoch: int
    incarnation: bytes
    lane: Lane
    first: int
    last: int
    prev_chain: int
    last_chain: int
    codec: Codec
    payload: bytes
    reason: str = ""  # of a DEAD or GAP batch


class Ack(Message, frozen=True, kw_only=True):
    """Everything up to `floor` is durable (I1, I4).

    pause_s   slow down: nothing more is wanted on this lane for so long, and `reason` says why.
              What is under way is still stored; whoever goes on is refused as BUSY.
    """

    epoch: int
    incarnation: bytes
    lane: Lane
    floor: int
    safe: int
    pause_s: float = 0.0
    reason: str = ""


class NackCode(enum.IntEnum):
    GAP = 1  # first is not floor + 1: go on after `floor`
    CHAIN = 2  # prev_chain is not the hash at the floor: greet again
    POISON = 3  # the payload cannot be decoded or applied: bisect
    TOO_LARGE = 4
    BUSY = 5  # storage refuses for now: try again after `retry_after_s`


class Nack(Message, frozen=True, kw_only=True):
    """The batch was not stored, and why. Nothing of it has had an effect."""

    epoch: int
    incarnation: bytes
    lane: Lane
    first: int
    last: int
    floor: int
    code: NackCode
    reason: str
    retry_after_s: float = 0.0


class Pull(Message, frozen=True, kw_only=True):
    """The edge asks for what changed in the hub's keys, and confirms what it has.

    keyspace    the hub's keyspace it knows; zeros before it knows one
    replica     as which the edge writes
    base        it has the hub's state up to here in full
    after       ... and of the pass under way all up to here
    made        seq of its `normal` lane by which all its operations up to now are in the lane;
                the largest number while some are not
    part        which part of the answer; 0 begins a new one
    conflicts   it knows the conflicts up to this number
    wait_s      how long the hub may hold back an answer that would tell nothing new
    payload     which keys are wanted, as MessagePack: [prefix, whether] pairs, the longest first

    wants_digest   the edge wants to know whether what it has are the hub's keys
    wants          up to 64 keys the edge has left values of to the hub: told whole, beside the page
    start          of the hub that `base` is from; 0: not known
    knows_grants   it takes in what a Page grants
    grant          prefixes of the keys it knows to be granted; none: all
    """

    epoch: int
    token: int
    keyspace: bytes
    replica: int
    base: int
    after: int
    made: int
    part: int = 0
    conflicts: int = 0
    wait_s: float = 0.0
    wants_digest: bool = False
    wants: tuple[bytes, ...] = ()
    start: int = 0
    knows_grants: bool = False
    grant: tuple[bytes, ...] = ()
    payload: bytes = b""


class Page(Message, frozen=True, kw_only=True):
    """Keys of the hub that changed: part `part` of `parts` of the answer to a Pull.

    keyspace   the hub's; another one than before means that numbers begin anew
    replica    the edge's name there; when it has another now, nothing else in here counts
    position   where the pass goes on
    applied    seq of the edge's `normal` lane up to which its operations are in this state
    stable     what every edge has confirmed, which the hub has forgotten the removals of
    is_all     the pass has reached the newest change
    digest     of all keys wanted as they are at `position` (EdgeKeys.digest), if the edge wants it
               and they have not changed while it was counted; 0 for none
    start      of this hub: positions told in another start may be lost
    told       the token of the state the edge told last that the hub has carried out to its end
    seen       operations that are in this state or were replaced in it, up to which number of
               each replica, as far as it has changed since `base`: replica, number, replica, ...
    grant      prefixes of the keys the edge is granted, none: all; when they are others than the
               Pull says, nothing else counts
    head       number of the hub's newest change, 0 if it does not tell: how far the pass is
    """

    epoch: int
    token: int
    keyspace: bytes
    replica: int
    position: int
    applied: int
    stable: int
    is_all: bool
    part: int
    parts: int
    digest: int = 0
    start: int = 0
    told: int = 0
    seen: tuple[int, ...] = ()
    grant: tuple[bytes, ...] = ()
    head: int = 0
    payload: bytes = b""


class FullSync(Page, frozen=True, kw_only=True):
    """... of a pass from the beginning: whatever it does not list, the hub does not have."""


class DeltaSync(Page, frozen=True, kw_only=True):
    """... of a pass from `base`: cells that changed since."""


class ConflictReport(Message, frozen=True, kw_only=True):
    """Writes that met at the hub and had not seen each other, up to number `last`."""

    epoch: int
    last: int
    count: int
    payload: bytes = b""


class Ping(Message, frozen=True, kw_only=True):
    """Liveness, round-trip time and clock offset in one. `at_ns` is the asker's wall clock."""

    epoch: int
    token: int
    at_ns: int


class Pong(Message, frozen=True, kw_only=True):
    epoch: int
    token: int
    asked_at_ns: int
    at_ns: int


class Bye(Message, frozen=True, kw_only=True):
    """The peer stops on purpose; no timeout needed to notice. `spread_s` as in Welcome."""

    epoch: int
    reason: str = ""
    spread_s: float = 0.0


class TunnelOpen(Message, frozen=True, kw_only=True):
    """The hub wants a tunnel to `host:port`, as the edge can reach it, for `for_s`."""

    epoch: int
    tunnel: int
    host: str
    port: int
    for_s: float
    by: str = ""


# Of a tunnel at a time, at either end.
CONNECTIONS_MAX: Final = 16


class TunnelOpened(Message, frozen=True, kw_only=True):
    """The edge grants it, for at most as long as was asked; so many connections at a time."""

    epoch: int
    tunnel: int
    for_s: float
    connections: int


class TunnelData(Message, frozen=True, kw_only=True):
    """Bytes of one connection, and how many of the other direction were handed on.

    stream   number of the connection, from 1; the hub's first message of a new one opens it
    offset   bytes of this direction before the payload
    is_end   nothing more follows in this direction
    """

    epoch: int
    tunnel: int
    stream: int
    offset: int
    taken: int
    is_end: bool = False
    payload: bytes = b""


class TunnelCode(enum.IntEnum):
    """Why a tunnel, or a connection in it, is over or was not granted."""

    CLOSED = 1
    NOT_ALLOWED = 2
    FULL = 3
    UNREACHABLE = 4
    RESET = 5
    IDLE = 6
    EXPIRED = 7
    LOST = 8


class TunnelClose(Message, frozen=True, kw_only=True):
    """A connection is over; with `stream` 0 the tunnel, and all its connections."""

    epoch: int
    tunnel: int
    stream: int
    code: TunnelCode
    reason: str = ""


class ObjectReport(Message, frozen=True, kw_only=True):
    """How objects stand at the edge.

    listing   SHA-256 of the listing it goes by, as hex: the hub sends its own if that is another
    payload   the states, as docs/objects.md has them
    """

    epoch: int
    listing: str
    payload: bytes = b""


class ObjectListing(Message, frozen=True, kw_only=True):
    """What the edge is to hold, and what it is to remove, as docs/objects.md has it."""

    epoch: int
    payload: bytes = b""


class ObjectPull(Message, frozen=True, kw_only=True):
    """The edge asks for `length` bytes of an object; its SHA-256 is hex."""

    epoch: int
    sha256: str
    offset: int
    length: int


class ObjectPart(Message, frozen=True, kw_only=True):
    """Bytes of an object of `size` bytes, or the reason why there are none."""

    epoch: int
    sha256: str
    offset: int
    size: int
    reason: str = ""
    payload: bytes = b""
