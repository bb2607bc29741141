# The wire protocol between an edge and its hub, version 1. Prose: docs/protocol.md.
#
# One ZeroMQ message is one `Control` in the standard Cap'n Proto stream framing, always a single
# segment, at most 64 KiB. What has a payload carries it in a second frame, at most 512 KiB.
# Both sides speak the same words: the *sender* has records to deliver, the *receiver* stores them.
# With the feature `downlink` each side is both: who sent a Batch, Ack or Nack says its direction.
#
# Growing it: add fields and members of `Control` at the end, never renumber, never reuse. A peer
# that does not know a member drops the message and counts it.

@0xe2b6a1f0c53d9487;

struct Control {
  union {
    hello @0 :Hello;
    welcome @1 :Welcome;
    refused @2 :Refused;
    batch @3 :Batch;
    ack @4 :Ack;
    nack @5 :Nack;
    ping @6 :Ping;
    pong @7 :Pong;
    bye @8 :Bye;
    pull @9 :Pull;
    fullSync @10 :Page;
    deltaSync @11 :Page;
    conflictReport @12 :ConflictReport;
    tunnelOpen @13 :TunnelOpen;
    tunnelOpened @14 :TunnelOpened;
    tunnelData @15 :TunnelData;
    tunnelClose @16 :TunnelClose;
    objectReport @17 :ObjectReport;
    objectListing @18 :ObjectListing;
    objectPull @19 :ObjectPull;
    objectPart @20 :ObjectPart;
  }
}

enum Lane {
  critical @0;
  normal @1;
  bulk @2;
}

struct LaneOffer {
  tail @0 :UInt64;        # highest seq the sender has
  trimmed @1 :UInt64;     # it no longer has this seq and those before it
  start @2 :UInt64;       # seq before the first record of this incarnation
  startChain @3 :UInt64;  # the running hash there
}

struct LaneFloor {
  floor @0 :UInt64;  # highest seq that is durable at the receiver; all before it are too
  chain @1 :UInt64;  # the sender's running hash at `floor`, as it was delivered
  safe @2 :UInt64;   # highest seq that every backup of the receiver contains
}

struct Limits {
  batchRecords @0 :UInt32 = 65536;
  batchBytes @1 :UInt32 = 524288;
  windowBatches @2 :UInt32 = 16;
  windowBytes @3 :UInt32 = 4194304;
}

struct Hello {
  nonce @0 :UInt64;  # fresh for every Hello, used once
  protocolOldest @1 :UInt16;
  protocolNewest @2 :UInt16;
  incarnation @3 :Data;        # exactly 16 bytes
  lanes @4 :List(LaneOffer);   # exactly 3, in the order of `Lane`
  clockNs @5 :Int64;           # wall clock, ns since 1970 UTC; information, never an order
  software @6 :Text;
  heartbeatS @7 :Float64;      # the sender intends a message at least this often
  configRevision @8 :UInt64;
  lastStart @9 :UInt64;        # the start of the receiver it spoke with last; 0: none, or not known
  features @10 :UInt64;        # bits: 0 lanes from the hub to the edge, 1 readings once more,
                               # 2 tunnels, 3 large objects
  downIncarnation @11 :Data;   # 16 bytes, of the hub's journal for this edge; none: not known
  downFloors @12 :List(LaneFloor);  # 3 with bit 0, where each lane from the hub stands; else none
}

struct Welcome {
  nonce @0 :UInt64;  # of the Hello this answers
  protocol @1 :UInt16;
  epoch @2 :UInt64;  # number of this session; a higher one ends it
  generation @3 :Data;         # exactly 16 bytes, new when the receiver's store is new or restored
  lanes @4 :List(LaneFloor);   # exactly 3, in the order of `Lane`
  limits @5 :Limits;
  clockNs @6 :Int64;
  heartbeatS @7 :Float64;
  restoreSafe @8 :Bool;        # false: `safe` is merely the floor, there is no backup
  start @9 :UInt64;            # random, of this start of the receiver; 0: not told
  spreadS @10 :Float64;        # edges that come back at once shall take so long for it
  features @11 :UInt64;        # of those of the Hello, what this session has
  downIncarnation @12 :Data;   # 16 bytes with bit 0
  downOffers @13 :List(LaneOffer);  # 3 with bit 0: the hub's journal for the edge
  edge @14 :Text;              # what the receiver calls the sender; empty: not told
}

enum RefuseCode {
  unspecified @0;
  badCredentials @1;
  unsupportedVersion @2;
  superseded @3;
  rateLimited @4;
  unavailable @5;
  staleEpoch @6;
}

struct Refused {
  nonce @0 :UInt64;  # of the Hello this answers; 0 when it ends a running session
  epoch @1 :UInt64;  # of the session this ends; 0 when it answers a Hello
  code @2 :RefuseCode;
  reason @3 :Text;
  retryAfterS @4 :Float64;
}

enum Codec {
  rows @0;
  columns @1;
  dead @2;  # one record the receiver refused, kept as a dead letter
  gap @3;   # records the sender no longer has: no payload frame
}

struct Batch {
  epoch @0 :UInt64;
  incarnation @1 :Data;   # exactly 16 bytes
  lane @2 :Lane;
  codec @3 :Codec;
  first @4 :UInt64;       # 1 <= first <= last
  last @5 :UInt64;
  prevChain @6 :UInt64;   # running hash before `first`
  lastChain @7 :UInt64;   # running hash at `last`
  payloadBytes @8 :UInt32;  # length of the second frame; 0: there is none
  payloadCrc32 @9 :UInt32;  # CRC-32 of the second frame (ISO-HDLC, as in zlib); 0 of none
  reason @10 :Text;
}

struct Ack {
  epoch @0 :UInt64;
  incarnation @1 :Data;
  lane @2 :Lane;
  floor @3 :UInt64;
  safe @4 :UInt64;
  pauseS @5 :Float64;  # slow down: send nothing more on this lane for so long
  reason @6 :Text;     # ... and why
}

enum NackCode {
  unspecified @0;
  gap @1;       # `first` is not floor + 1: go on after `floor`
  chain @2;     # `prevChain` is not the hash at the floor: greet again
  poison @3;    # the payload cannot be decoded or applied: bisect
  tooLarge @4;
  busy @5;      # storage refuses for now: again after `retryAfterS`
}

struct Nack {
  epoch @0 :UInt64;
  incarnation @1 :Data;
  lane @2 :Lane;
  code @3 :NackCode;
  first @4 :UInt64;
  last @5 :UInt64;
  floor @6 :UInt64;
  reason @7 :Text;
  retryAfterS @8 :Float64;
}

struct Ping {
  epoch @0 :UInt64;
  token @1 :UInt64;
  atNs @2 :Int64;  # the asker's wall clock
}

struct Pong {
  epoch @0 :UInt64;
  token @1 :UInt64;
  askedAtNs @2 :Int64;  # atNs of the Ping
  atNs @3 :Int64;       # the answerer's wall clock
}

struct Bye {
  epoch @0 :UInt64;
  reason @1 :Text;
  spreadS @2 :Float64;  # of a receiver that stops: as in Welcome
}

# The local-first store. Operations of an edge are records of its `normal` lane; what follows is how
# the state they lead to comes back.

struct Pull {
  epoch @0 :UInt64;
  token @1 :UInt64;
  keyspace @2 :Data;      # exactly 16 bytes; zeros before the edge knows one
  replica @3 :UInt32;
  base @4 :UInt64;        # the edge has the hub's state up to here in full
  after @5 :UInt64;       # ... and of the pass under way all up to here
  made @6 :UInt64;        # `normal` seq by which all its operations are in the lane; else the largest
  part @7 :UInt32;
  conflicts @8 :UInt64;
  waitS @9 :Float64;      # how long an answer that tells nothing new may be held back
  payloadBytes @10 :UInt32;  # which keys are wanted; none: all
  payloadCrc32 @11 :UInt32;
  wantsDigest @12 :Bool;
  wants @13 :List(Data);  # up to 64 keys it has left values of to the hub: told whole, beside the page
  start @14 :UInt64;      # of the hub that said what `base` is; 0: not known
  knowsGrants @15 :Bool;  # it takes in what `grant` of a Page says
  grant @16 :List(Data);  # prefixes of keys it knows to be granted; none: all
}

struct Page {
  epoch @0 :UInt64;
  token @1 :UInt64;       # of the Pull this answers
  keyspace @2 :Data;      # exactly 16 bytes
  replica @3 :UInt32;     # when it is another, the edge has a new name and nothing else counts
  position @4 :UInt64;
  applied @5 :UInt64;     # `normal` seq up to which the edge's operations are in this state
  stable @6 :UInt64;
  isAll @7 :Bool;
  part @8 :UInt32;
  parts @9 :UInt32;       # 0 <= part < parts
  payloadBytes @10 :UInt32;
  payloadCrc32 @11 :UInt32;
  digest @12 :UInt64;     # of the keys wanted as they are at `position`; 0: not told
  start @13 :UInt64;      # random, of this start of the hub; 0: not told
  told @14 :UInt64;       # the state an edge told last that is carried out to its end; 0: none
  seen @15 :List(UInt64);  # replica, number, ...: operations up to that are in this state, or replaced
  grant @16 :List(Data);  # prefixes of keys that are granted; others than in the Pull: nothing else counts
  head @17 :UInt64;       # number of the hub's newest change, for showing how far a pass is; 0: not told
}

struct ConflictReport {
  epoch @0 :UInt64;
  last @1 :UInt64;        # number of the newest conflict in here
  count @2 :UInt32;
  payloadBytes @3 :UInt32;
  payloadCrc32 @4 :UInt32;
}

# Tunnels: TCP connections to what the edge can reach, opened by the hub. Nothing of them is stored,
# nothing is sent twice, and none outlives its session.

struct TunnelOpen {
  epoch @0 :UInt64;
  tunnel @1 :UInt64;  # random
  host @2 :Text;      # what the edge shall connect to: an address or a name
  port @3 :UInt16;
  forS @4 :Float64;   # for so long
  by @5 :Text;        # who wants it
}

struct TunnelOpened {
  epoch @0 :UInt64;
  tunnel @1 :UInt64;
  forS @2 :Float64;        # what the edge grants, at most what was asked for
  connections @3 :UInt16;  # at a time
}

struct TunnelData {
  epoch @0 :UInt64;
  tunnel @1 :UInt64;
  stream @2 :UInt32;  # number of a connection, from 1; the hub's first message of a new one opens it
  offset @3 :UInt64;  # bytes of this direction before the payload
  taken @4 :UInt64;   # bytes of the other direction that were handed on
  isEnd @5 :Bool;     # nothing more follows in this direction
  payloadBytes @6 :UInt32;
  payloadCrc32 @7 :UInt32;
}

enum TunnelCode {
  unspecified @0;
  closed @1;       # on purpose
  notAllowed @2;   # the edge does not let the hub connect there
  full @3;         # as many as may be at a time
  unreachable @4;  # the target did not take the connection
  reset @5;        # the connection broke
  idle @6;         # nothing was sent for too long
  expired @7;      # its time is over
  lost @8;         # the link lost a part of it
}

struct TunnelClose {
  epoch @0 :UInt64;
  tunnel @1 :UInt64;
  stream @2 :UInt32;  # 0: the tunnel with all its connections
  code @3 :TunnelCode;
  reason @4 :Text;
}

# Large objects, beside the lanes: what an edge is to hold, and their bytes in parts that it asks
# for. docs/objects.md has the payloads, which are MessagePack.

struct ObjectReport {
  epoch @0 :UInt64;
  listing @1 :Text;  # SHA-256 of the listing the edge goes by, as hex
  payloadBytes @2 :UInt32;
  payloadCrc32 @3 :UInt32;
}

struct ObjectListing {
  epoch @0 :UInt64;
  payloadBytes @1 :UInt32;
  payloadCrc32 @2 :UInt32;
}

struct ObjectPull {
  epoch @0 :UInt64;
  sha256 @1 :Text;   # of the whole object, as hex
  offset @2 :UInt64;
  length @3 :UInt32;
}

struct ObjectPart {
  epoch @0 :UInt64;
  sha256 @1 :Text;
  offset @2 :UInt64;
  size @3 :UInt64;   # of the whole object
  reason @4 :Text;   # why there are no bytes
  payloadBytes @5 :UInt32;
  payloadCrc32 @6 :UInt32;
}
