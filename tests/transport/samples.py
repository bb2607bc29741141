"""One of each message, with values at the edges of their ranges."""

from typing import Final

import msgspec

from edgesync_transport.messages import (
    Ack,
    Batch,
    Bye,
    Codec,
    ConflictReport,
    DeltaSync,
    FullSync,
    Hello,
    Lane,
    LaneFloor,
    LaneOffer,
    Limits,
    Message,
    Nack,
    NackCode,
    ObjectListing,
    ObjectPart,
    ObjectPull,
    ObjectReport,
    Ping,
    Pong,
    Pull,
    RefuseCode,
    Refused,
    TunnelClose,
    TunnelCode,
    TunnelData,
    TunnelOpen,
    TunnelOpened,
    Welcome,
)

U64_MAX: Final = 2**64 - 1
I64_MIN: Final = -(2**63)
INCARNATION: Final = bytes(range(16))
GENERATION: Final = bytes(range(240, 256))

HELLO: Final = Hello(
    nonce=0xFEDC_BA98_7654_3210,
    protocol_oldest=1,
    protocol_newest=3,
    incarnation=INCARNATION,
    lanes=(
        LaneOffer(tail=0, trimmed=0),
        LaneOffer(tail=1_000_000, trimmed=999_000, start=500, start_chain=77),
        LaneOffer(tail=U64_MAX, trimmed=U64_MAX - 1, start=1, start_chain=U64_MAX),
    ),
    clock_ns=1_700_000_000_123_456_789,
    software="edgesync 0.1.0 é",
    heartbeat_s=2.5,
    config_revision=12,
)
WELCOME: Final = Welcome(
    nonce=0xFEDC_BA98_7654_3210,
    protocol=1,
    epoch=41,
    generation=GENERATION,
    lanes=(
        LaneFloor(floor=0, chain=0, safe=0),
        LaneFloor(floor=999_500, chain=0x1234_5678_9ABC_DEF0, safe=999_100),
        LaneFloor(floor=U64_MAX, chain=U64_MAX, safe=7),
    ),
    limits=Limits(batch_records=100, batch_bytes=65_536, window_batches=4, window_bytes=262_144),
    clock_ns=I64_MIN,
    heartbeat_s=5.0,
    restore_safe=True,
)
HELLO_DOWN: Final = msgspec.structs.replace(
    HELLO, features=1, down_incarnation=GENERATION, down_floors=WELCOME.lanes
)
HELLO_DOWN_NEW: Final = msgspec.structs.replace(HELLO, features=1, down_floors=WELCOME.lanes)
WELCOME_DOWN: Final = msgspec.structs.replace(
    WELCOME, features=1, down_incarnation=GENERATION, down_offers=HELLO.lanes
)
HELLO_RESENT: Final = msgspec.structs.replace(HELLO_DOWN, features=3)
WELCOME_RESENT: Final = msgspec.structs.replace(WELCOME, features=2)  # a hub without a downlink
REFUSED: Final = Refused(
    nonce=7, epoch=0, code=RefuseCode.RATE_LIMITED, reason="too many greetings", retry_after_s=1.5
)
BATCH: Final = Batch(
    epoch=41,
    incarnation=INCARNATION,
    lane=Lane.BULK,
    first=999_501,
    last=1_000_000,
    prev_chain=0x1234_5678_9ABC_DEF0,
    last_chain=U64_MAX,
    codec=Codec.COLUMNS,
    payload=b"packed records",
)
DEAD: Final = Batch(
    epoch=41,
    incarnation=INCARNATION,
    lane=Lane.CRITICAL,
    first=5,
    last=5,
    prev_chain=1,
    last_chain=2,
    codec=Codec.DEAD,
    payload=b"refused record",
    reason="schema says no",
)
GAP: Final = Batch(
    epoch=41,
    incarnation=INCARNATION,
    lane=Lane.NORMAL,
    first=1,
    last=U64_MAX,
    prev_chain=0,
    last_chain=9,
    codec=Codec.GAP,
    payload=b"",
    reason="trimmed by policy",
)
ACK: Final = Ack(epoch=41, incarnation=INCARNATION, lane=Lane.NORMAL, floor=1_000_000, safe=999_000)
NACK: Final = Nack(
    epoch=41,
    incarnation=INCARNATION,
    lane=Lane.CRITICAL,
    first=6,
    last=9,
    floor=5,
    code=NackCode.BUSY,
    reason="disk full",
    retry_after_s=30.0,
)
PING: Final = Ping(epoch=41, token=3, at_ns=-1)
PONG: Final = Pong(epoch=41, token=3, asked_at_ns=-1, at_ns=I64_MIN)
BYE: Final = Bye(epoch=41, reason="stopped by the operator")
PULL: Final = Pull(
    epoch=41,
    token=7,
    keyspace=bytes(16),
    replica=2**32 - 1,
    base=5,
    after=9,
    made=U64_MAX,
    part=3,
    conflicts=2,
    wait_s=30.0,
    wants_digest=True,
    wants=(b"prices:1", b""),
    payload=b"keys wanted",
)
FULL_SYNC: Final = FullSync(
    epoch=41,
    token=7,
    keyspace=GENERATION,
    replica=3,
    position=0,
    applied=0,
    stable=0,
    is_all=True,
    part=0,
    parts=1,
)
DELTA_SYNC: Final = DeltaSync(
    epoch=41,
    token=U64_MAX,
    keyspace=GENERATION,
    replica=3,
    position=U64_MAX,
    applied=17,
    stable=12,
    is_all=False,
    part=1,
    parts=2,
    digest=U64_MAX,
    payload=b"keys and cells",
)
CONFLICT_REPORT: Final = ConflictReport(epoch=41, last=3, count=1, payload=b"who met whom")
TUNNEL_OPEN: Final = TunnelOpen(
    epoch=41, tunnel=U64_MAX, host="192.168.1.20", port=65_535, for_s=1800.0, by="ana é"
)
TUNNEL_DATA: Final = TunnelData(
    epoch=41, tunnel=U64_MAX, stream=2**32 - 1, offset=U64_MAX, taken=7, payload=b"SSH-2.0"
)
TUNNEL_CLOSE: Final = TunnelClose(
    epoch=41, tunnel=1, stream=0, code=TunnelCode.NOT_ALLOWED, reason="not in [tunnel] allow"
)

SAMPLES: Final[dict[str, Message]] = {
    "hello_down": HELLO_DOWN,
    "hello_down_new": HELLO_DOWN_NEW,
    "welcome_down": WELCOME_DOWN,
    "hello_resent": HELLO_RESENT,
    "welcome_resent": WELCOME_RESENT,
    "hello": HELLO,
    "welcome": WELCOME,
    "refused": REFUSED,
    "batch": BATCH,
    "batch_dead": DEAD,
    "batch_gap": GAP,
    "ack": ACK,
    "nack": NACK,
    "ping": PING,
    "pong": PONG,
    "bye": BYE,
    "pull": PULL,
    "full_sync": FULL_SYNC,
    "delta_sync": DELTA_SYNC,
    "conflict_report": CONFLICT_REPORT,
    "hello_tunnel": msgspec.structs.replace(HELLO_DOWN, features=7),
    "welcome_tunnel": msgspec.structs.replace(WELCOME, features=4),
    "tunnel_open": TUNNEL_OPEN,
    "tunnel_opened": TunnelOpened(epoch=41, tunnel=U64_MAX, for_s=600.0, connections=8),
    "tunnel_data": TUNNEL_DATA,
    "tunnel_end": msgspec.structs.replace(TUNNEL_DATA, payload=b"", is_end=True),
    "tunnel_close": TUNNEL_CLOSE,
    "hello_objects": msgspec.structs.replace(HELLO_DOWN, features=15),
    "welcome_objects": msgspec.structs.replace(WELCOME, features=8),
    "object_report": ObjectReport(epoch=41, listing="e" * 64, payload=b"how they stand"),
    "object_listing": ObjectListing(epoch=41, payload=b"what is to be held"),
    "object_pull": ObjectPull(epoch=41, sha256="0f" * 32, offset=1 << 40, length=65_536),
    "object_part": ObjectPart(
        epoch=41, sha256="0f" * 32, offset=1 << 40, size=U64_MAX, payload=b"bytes"
    ),
    "object_part_none": ObjectPart(
        epoch=41, sha256="0f" * 32, offset=0, size=0, reason="it is not assigned to this edge"
    ),
    "ack_pause": msgspec.structs.replace(ACK, pause_s=2.5, reason="slow down"),
    "pull_grant": msgspec.structs.replace(PULL, knows_grants=True, grant=(b"a/", b"b/")),
    "delta_sync_grant": msgspec.structs.replace(DELTA_SYNC, grant=(b"a/", b"b/")),
    "hello_again": msgspec.structs.replace(HELLO, last_start=U64_MAX),
    "welcome_start": msgspec.structs.replace(WELCOME, start=U64_MAX),
    "welcome_edge": msgspec.structs.replace(WELCOME, edge="barn-7"),
    "pull_start": msgspec.structs.replace(PULL, start=U64_MAX),
    "full_sync_told": msgspec.structs.replace(
        FULL_SYNC, start=U64_MAX, told=1, seen=(2**28, U64_MAX, 0, 7)
    ),
}
