@0xb5f0c1d7a4e39a62;
# One immutable fact about an entity, as it is stored and as it travels. A message has one segment.
# The numbers of type, action and entityType are those of edgesync/model.py; unknown ones from a
# newer peer are kept and passed on, so they are plain integers and not enums here.

struct Event {
  type @0 :UInt16;
  action @1 :UInt16;
  entityType @2 :UInt16;
  timeNs @3 :Int64;     # when it happened, ns since 1970 UTC, by the source's clock
  createdNs @4 :Int64;  # when it was recorded
  hlc @5 :UInt64;       # hybrid logical clock, 0 where no state depends on it
  entityId @6 :Text;
  body @7 :Data;
}
