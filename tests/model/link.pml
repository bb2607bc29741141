/* The link protocol (docs/protocol.md) with everything that can go wrong, for spin.

   One edge with a lane of N records to the hub, one hub with a lane of DOWN_N records to the edge
   (downlink.pml); either may be left out. Messages are lost, doubled, reordered and arrive in
   later sessions. Either side crashes, is restored from a copy, or greets again at any moment.
   test_model.py says which faults go together, and leaves out one rule at a time: each of the
   names `NO_...` must lead to a violated assertion.

   Known limit: a hub that lost what it had promised to be safe AND an edge restored from a copy
   before they meet again: what the edge had trimmed is then gone without a gap record.

   A record is known by the number of its making, 1 .. MADE. Nothing else is ever appended after the
   same predecessor, so that number also stands for the running hash at its seq.              */

#ifndef N
#define N 2             /* seqs in the lane */
#endif
#ifndef MADE
#define MADE 3          /* records made in all timelines */
#endif
#ifndef GREETINGS
#define GREETINGS 3
#endif
#ifndef EDGE_RESTORES
#define EDGE_RESTORES 0
#endif
#ifndef HUB_RESTORES
#define HUB_RESTORES 0  /* from the newest backup */
#endif
#ifndef HUB_LOSSES
#define HUB_LOSSES 0    /* from something older than what it promised to be safe */
#endif
#ifndef CRASHES
#define CRASHES 0       /* of each side */
#endif
#ifndef UP
#define UP 1            /* messages under way to the hub, and back: a second one can overtake */
#endif
#ifndef DOWN
#define DOWN 1
#endif
#ifndef POISON
#define POISON 255      /* the record the hub cannot store */
#endif
#ifndef IMPOSTOR
#define IMPOSTOR 0      /* messages of another edge, with its own key and our names */
#endif

#ifndef DOWN_N
#define DOWN_N 0        /* seqs in the lane to the edge */
#endif
#ifndef REGISTRY_RESTORES
#define REGISTRY_RESTORES 0     /* what the hub owns, alone, from the newest backup */
#endif

#define INCARNATIONS 4
#define EVIL (MADE + 1)
#define OURS 1
#define THEIRS 2

mtype = { HELLO, BATCH, DEAD, GAP, WELCOME, ACK, NACK };

/* kind, key, nonce or epoch, incarnation, first (HELLO: trimmed), last (HELLO: journal of the hub),
   record (HELLO: the last one taken from it), next record (HELLO: start), chain before */
chan up = [UP] of { mtype, byte, byte, byte, byte, byte, byte, byte, byte };
/* kind, nonce, epoch, incarnation, floor (NACK: first), chain (NACK: last), safe,
   WELCOME: journal of the hub, record at its start */
chan down = [DOWN] of { mtype, byte, byte, byte, byte, byte, byte, byte, byte };

/* What an onlooker knows. */
byte made, names = 1, epochs, greetings, lost_epochs;
byte before[MADE + 2];          /* record -> its predecessor in the edge's journal */
byte id[MADE + 2];              /* record -> event id */
byte edge_restores, hub_restores, hub_losses, edge_crashes, hub_crashes, impostures;
bool may_fork;                  /* one restore of the edge explains one fork */

typedef Journal { byte inc, start, trimmed, tail; byte at[N + 1] }
Journal e, copy;                /* the edge's store; a copy of it that somebody made */
byte nonce, epoch, acked;       /* of the edge, in memory */
byte single, dead_seq;          /* what refusals taught it: bisect; this seq stands alone */

typedef Log {
  byte floor[INCARNATIONS + 1]; byte chain[INCARNATIONS + 1]; bool met[INCARNATIONS + 1];
  byte stored[MADE + 2]; bool known[MADE + 2]; bool dead[MADE + 2]; bool lost[MADE + 2]
}
Log h, backup;
byte live, live_inc, live_key;  /* the session that may write, in memory */

#if DOWN_N
#include "downlink.pml"
#ifdef NO_STORED_FLOOR
#define TAKEN_FROM m_life, m_at
#else
#define TAKEN_FROM t.life, t.at
#endif
#define OFFERED j.life, j.at[j.start]
#define is_storing (q_kind != 0)
#define differs_from_copy (copy.tail != e.tail || t_copy.at != t.at)
#else
#define TAKEN_FROM 0, 0
#define OFFERED 0, 0
#define is_storing false
#define differs_from_copy (copy.tail != e.tail)
#define begin_down(life, at) skip
#define end_down() skip
#define restore_hub_journal() skip
#define lose_hub_journal() skip
#define copy_down() skip
#define forget_memory() skip
#define copy_effects(to, from) skip
#define note_restore() skip
#endif
#ifdef NO_SETTLE
#define may_greet true
#else
#define may_greet (!is_storing)
#endif

#define settled(log, r) (log.stored[r] == 1 || log.dead[r] || log.lost[r])

inline copy_journal(to, from) {
  to.inc = from.inc; to.start = from.start; to.trimmed = from.trimmed; to.tail = from.tail;
  for (i : 1 .. N) { to.at[i] = from.at[i] }
}

inline copy_log(to, from) {
  for (i : 1 .. INCARNATIONS) {
    to.floor[i] = from.floor[i]; to.chain[i] = from.chain[i]; to.met[i] = from.met[i]
  }
  for (i : 1 .. MADE + 1) {
    to.stored[i] = from.stored[i]; to.known[i] = from.known[i];
    to.dead[i] = from.dead[i]; to.lost[i] = from.lost[i]
  }
}

inline forget_log(log) {
  for (i : 1 .. INCARNATIONS) { log.floor[i] = 0; log.chain[i] = 0; log.met[i] = false }
  for (i : 1 .. MADE + 1) {
    log.stored[i] = 0; log.known[i] = false; log.dead[i] = false; log.lost[i] = false
  }
}

inline hang_up() { epoch = 0; nonce = 0; acked = 0; single = 0; dead_seq = 0 }

/* I2: what the edge believes to be the hub's is the hub's, unless the hub lost its disk since. */
inline check_acked() {
  if
  :: epoch > lost_epochs ->
     for (i : 1 .. N) {
       if
       :: i <= acked && i <= e.tail -> assert(settled(h, e.at[i]))
       :: else
       fi
     }
  :: else
  fi
}

inline trim_to(limit) {
  for (i : 1 .. N) {
    if
    :: i > e.trimmed && i <= limit ->
       /* I3: what the edge lets go is in the newest backup. */
       assert(epoch <= lost_epochs || settled(backup, e.at[i]));
       e.trimmed = i;
#ifdef REACH_TRIM
       assert(false)
#endif
    :: else
    fi
  }
}

inline append() {
  made++; e.tail++; e.at[e.tail] = made;
  before[made] = (e.tail > 1 -> e.at[e.tail - 1] : 0);
#ifdef NO_UNIQUE_IDS
  id[made] = e.tail
#else
  id[made] = made
#endif
}

inline fork() {
  /* A fork settles a divergence: without another restore there is no second one. */
  assert(may_fork); may_fork = false;
#ifdef REACH_FORK
  assert(false);
#endif
#ifdef NO_RANDOM_NAME
  e.inc = (e.inc < INCARNATIONS -> e.inc + 1 : e.inc);
#else
  names++; e.inc = names;
#endif
  e.start = e.trimmed;
  hang_up()
}

active proctype Edge() {
  byte i, n, s, inc, floor, chain, safe, last, life, start;
  d_step { e.inc = 1; copy.inc = 1 }
end:
  do
  /* The application appends: acknowledged to it, so from now on it must not be lost. */
  :: d_step { made < MADE && e.tail < N -> append() }
  :: atomic { greetings < GREETINGS && epoch == 0 && may_greet ->
       greetings++; nonce = greetings;
       up!HELLO(OURS, nonce, e.inc, e.trimmed, TAKEN_FROM, e.start, e.at[e.start]) }
  /* Anything not acknowledged may be sent, once or often, one or two together. */
  :: atomic { epoch != 0 && acked < e.tail ->
       if
       :: acked < e.trimmed ->
#ifdef NO_GAP_RECORD
          /* goes on after the hole as if it were none */
          up!GAP(OURS, epoch, e.inc, acked + 1, e.trimmed, 0, 0, e.at[e.trimmed])
#else
          up!GAP(OURS, epoch, e.inc, acked + 1, e.trimmed, e.at[acked + 1],
                 (e.trimmed > acked + 1 -> e.at[acked + 2] : 0), e.at[e.trimmed])
#endif
       :: else ->
          if
          :: dead_seq == acked + 1 ->
             up!DEAD(OURS, epoch, e.inc, acked + 1, acked + 1, e.at[acked + 1], 0, e.at[acked])
          :: dead_seq != acked + 1 ->
             up!BATCH(OURS, epoch, e.inc, acked + 1, acked + 1, e.at[acked + 1], 0, e.at[acked])
          :: dead_seq != acked + 1 && !single && acked + 2 <= e.tail ->
             up!BATCH(OURS, epoch, e.inc, acked + 1, acked + 2, e.at[acked + 1], e.at[acked + 2],
                      e.at[acked])
          :: acked + 2 <= e.tail && dead_seq != acked + 2 ->
             up!BATCH(OURS, epoch, e.inc, acked + 2, acked + 2, e.at[acked + 2], 0, e.at[acked + 1])
          fi
       fi }
  :: d_step { down?WELCOME(n, s, inc, floor, chain, safe, life, start) ->
       if
#ifdef NO_NONCE
       :: inc != e.inc
       :: inc == e.inc ->
#else
       :: n == 0 || n != nonce || inc != e.inc
       :: n != 0 && n == nonce && inc == e.inc ->
#endif
          nonce = 0; single = 0; dead_seq = 0;
          if
#ifndef NO_HASH
          :: floor > e.tail || (floor >= e.trimmed && e.at[floor] != chain) -> fork()
          :: floor <= e.tail && !(floor >= e.trimmed && e.at[floor] != chain) ->
#else
          :: true ->
#endif
             epoch = s; acked = (floor <= e.tail -> floor : e.tail);
#ifdef REACH_REWIND
             assert(acked >= e.trimmed || hub_losses);
             assert(!(hub_restores && acked < e.tail && e.trimmed > 0))
#endif
             check_acked();
#if DOWN_N
             begin_taking(life, start)
#endif
          fi
       fi;
       n = 0; s = 0; inc = 0; floor = 0; chain = 0; safe = 0; i = 0; life = 0; start = 0 }
  :: d_step { down?ACK(n, s, inc, floor, chain, safe, _, _) ->
       if
#ifdef NO_OWN_ACKS
       :: epoch == 0
       :: epoch != 0 ->
#else
       :: epoch == 0 || s != epoch || inc != e.inc
       :: epoch != 0 && s == epoch && inc == e.inc ->
#endif
          floor = (floor <= e.tail -> floor : e.tail);
          acked = (floor > acked -> floor : acked);
          check_acked();
#ifdef NO_SAFE
          trim_to(acked)
#else
          safe = (safe < acked -> safe : acked);
          trim_to(safe)
#endif
       fi;
       n = 0; s = 0; inc = 0; floor = 0; chain = 0; safe = 0; i = 0 }
  :: d_step { down?NACK(n, s, inc, floor, last, safe, _, _) ->
       if
       :: s == epoch && inc == e.inc && floor == acked + 1 ->
          if
          :: floor == last -> dead_seq = floor
          :: floor != last -> single = 1
          fi
       :: else
       fi;
       n = 0; s = 0; inc = 0; floor = 0; last = 0; safe = 0 }
  :: d_step { epoch != 0 || nonce != 0 -> hang_up() }
  :: d_step { edge_crashes < CRASHES -> edge_crashes++; hang_up(); forget_memory() }
  :: d_step { EDGE_RESTORES && edge_restores < EDGE_RESTORES && differs_from_copy ->
       copy_journal(copy, e); copy_effects(t_copy, t); i = 0 }
  :: d_step { edge_restores < EDGE_RESTORES ->
       edge_restores++; may_fork = true; copy_journal(e, copy); hang_up();
       copy_effects(t, t_copy); forget_memory(); note_restore(); i = 0 }
#if DOWN_N
  :: d_step { down?TOLD(n, s, inc, floor, chain, safe, life, start) ->
       hear(n, inc, floor, chain, safe, life);
       n = 0; s = 0; inc = 0; floor = 0; chain = 0; safe = 0; life = 0 }
  /* One transaction for what takes effect and for the floor. */
  :: atomic { is_storing && follows && !cannot && may_store ->
#ifdef NO_ONE_TRANSACTION
       reach_floor(); q_life = 0;        /* the floor first */
#else
       take_effect(); reach_floor(); forget_batch();
#endif
       i = 0 }
#ifdef NO_ONE_TRANSACTION
  :: d_step { is_storing && q_life == 0 -> take_effect(); forget_batch(); i = 0 }
#endif
  :: atomic { is_storing && follows && cannot && nfull(up) ->
#ifdef NO_DOWN_DEAD_LETTER
       drop_what_cannot(); reach_floor();       /* and goes on */
#else
#ifdef NO_DOWN_PREFIX
       drop_what_cannot();                      /* carries out what it can of a batch */
#endif
       up!REFUSED(OURS, epoch, q_life, q_first, place[q_last], 0, 0, 0);
#endif
       forget_batch(); i = 0 }
  :: d_step { is_storing && q_life != 0 && (!follows || !may_store) -> forget_batch() }
  /* It says where it stands when a session begins, has stored a batch, or is sent one again. */
  :: atomic { epoch != 0 && m_at != 0 && nfull(up) ->
       up!TAKEN(OURS, epoch, m_life, 0, 0, m_at, 0, 0) }
#ifdef NO_STORED_ANSWERS
  :: atomic { epoch != 0 && is_storing && nfull(up) ->
       up!TAKEN(OURS, epoch, q_life, 0, 0, q_last, 0, 0) }
#endif
#endif
  od
}

inline store(r) {
  if
#ifndef NO_DEDUPE
  :: h.known[id[r]]
  :: !h.known[id[r]] ->
#else
  :: true ->
#endif
     h.known[id[r]] = true;
     /* I5: nothing before what came before it. I1: nothing twice. I10: nothing of others. */
     assert(before[r] == 0 || settled(h, before[r]));
     h.stored[r]++;
     assert(h.stored[r] == 1);
#if DOWN_N && REPORTS
     assert(report_of[r] == 0 || happened[report_of[r]]);
#endif
     assert(r != EVIL)
  fi
}

#ifdef NO_FENCE
#define is_live (s != 0 && h.met[inc])
#define answered live
#else
#define is_live (s != 0 && s == live && inc == live_inc)
#define answered s
#endif
#ifdef NO_IDENTITY
#define is_theirs true
#else
#define is_theirs (key == live_key)
#endif
#ifdef NO_HASH
#define continues (first == h.floor[inc] + 1)
#else
#define continues (first == h.floor[inc] + 1 && chain == h.chain[inc])
#endif

active proctype Hub() {
  byte i, key, s, inc, first, last, r, next, chain;
#if DOWN_N
  byte kind;
  d_step { j.life = 1; j_backup.life = 1 }
#endif
end:
  do
  :: atomic { up?HELLO(key, s, inc, first, last, r, next, chain) ->
       if
       :: key == OURS && epochs < GREETINGS + 1 ->
          epochs++; live = epochs; live_inc = inc; live_key = key;
          if
          :: !h.met[inc] -> h.met[inc] = true; h.floor[inc] = next; h.chain[inc] = chain
          :: h.met[inc]
          fi;
          begin_down(last, r);
          down!WELCOME(s, live, inc, h.floor[inc], h.chain[inc], backup.floor[inc],
                       OFFERED)
       :: else
       fi;
       key = 0; s = 0; inc = 0; first = 0; last = 0; r = 0; next = 0; chain = 0; i = 0 }
  :: atomic { up?BATCH(key, s, inc, first, last, r, next, chain) ->
       if
       :: !is_live || !is_theirs
       :: is_live && is_theirs && first <= h.floor[inc] ->
          down!ACK(0, answered, inc, h.floor[inc], 0, backup.floor[inc], 0, 0)
       :: is_live && is_theirs && first > h.floor[inc] && !continues
       :: is_live && is_theirs && continues && (r == POISON || next == POISON) ->
#ifdef NO_DEAD_LETTER
          /* drops what it cannot store, and goes on */
          if
          :: r != POISON -> store(r)
          :: next != POISON && next != 0 -> store(next)
          :: else
          fi;
          h.floor[inc] = last; h.chain[inc] = (next -> next : r);
          down!ACK(0, answered, inc, last, 0, backup.floor[inc], 0, 0)
#else
#ifdef NO_PREFIX
          /* stores what it can of a batch */
          if
          :: next != POISON && next != 0 -> store(next)
          :: else
          fi;
#endif
          down!NACK(0, answered, inc, first, last, 0, 0, 0)
#endif
       :: is_live && is_theirs && continues && r != POISON && next != POISON ->
#ifdef NO_COMMIT
          if
          :: hub_crashes < CRASHES ->       /* the answer was out before the disk had it */
             down!ACK(0, answered, inc, last, 0, backup.floor[inc], 0, 0); hub_crashes++; live = 0
          :: true ->
#endif
          store(r);
          if
          :: next -> store(next)
          :: !next
          fi;
#ifdef NO_ONE_STEP
          if
          :: hub_crashes < CRASHES -> hub_crashes++; live = 0      /* records, but no floor */
          :: true ->
#endif
          h.floor[inc] = last; h.chain[inc] = (next -> next : r);
          down!ACK(0, answered, inc, last, 0, backup.floor[inc], 0, 0)
#ifdef NO_ONE_STEP
          fi
#endif
#ifdef NO_COMMIT
          fi
#endif
       fi;
       key = 0; s = 0; inc = 0; first = 0; last = 0; r = 0; next = 0; chain = 0 }
  :: atomic { up?DEAD(key, s, inc, first, last, r, next, chain) ->
       if
       :: is_live && is_theirs && continues ->
          h.dead[r] = true; h.known[id[r]] = true; h.floor[inc] = last; h.chain[inc] = r;
          down!ACK(0, answered, inc, last, 0, backup.floor[inc], 0, 0)
       :: else
       fi;
       key = 0; s = 0; inc = 0; first = 0; last = 0; r = 0; next = 0; chain = 0 }
  :: atomic { up?GAP(key, s, inc, first, last, r, next, chain) ->
       if
       :: is_live && is_theirs && first == h.floor[inc] + 1 ->
          if
          :: r && h.stored[r] == 0 -> h.lost[r] = true
          :: else
          fi;
          if
          :: next && h.stored[next] == 0 -> h.lost[next] = true
          :: else
          fi;
          h.floor[inc] = last; h.chain[inc] = chain;
          down!ACK(0, answered, inc, last, 0, backup.floor[inc], 0, 0)
       :: else
       fi;
       key = 0; s = 0; inc = 0; first = 0; last = 0; r = 0; next = 0; chain = 0 }
  :: d_step { hub_crashes < CRASHES ->
       hub_crashes++; live = 0; live_inc = 0; live_key = 0; end_down() }
  :: d_step { HUB_RESTORES + HUB_LOSSES + REGISTRY_RESTORES + EDGE_RESTORES ->
       copy_log(backup, h); copy_down(); i = 0 }
  :: d_step { hub_restores < HUB_RESTORES ->
       hub_restores++; copy_log(h, backup); restore_hub_journal(); i = 0;
       live = 0; live_inc = 0; live_key = 0; lost_epochs = epochs }
  :: d_step { hub_losses < HUB_LOSSES ->
       hub_losses++; forget_log(h); forget_log(backup); lose_hub_journal(); i = 0;
       live = 0; live_inc = 0; live_key = 0; lost_epochs = epochs }
#if DOWN_N
  :: d_step { told < DOWN_MADE && j.tail < DOWN_N -> append_down() }
  :: atomic { live != 0 && s_life != 0 && nfull(down) && s_floor < j.tail -> tell() }
  :: d_step { up?TAKEN(key, s, inc, first, last, r, next, chain) ->
       take_answer();
       key = 0; s = 0; inc = 0; r = 0; i = 0 }
  :: d_step { up?REFUSED(key, s, inc, first, last, r, next, chain) ->
       take_refusal();
       key = 0; s = 0; inc = 0; first = 0; last = 0 }
  :: atomic { give_ups < GIVE_UPS && j.trimmed < j.tail -> give_up() }
  :: d_step { registry_restores < REGISTRY_RESTORES ->
       registry_restores++; restore_hub_journal(); i = 0; live = 0; live_inc = 0; live_key = 0 }
#endif
  od
}

/* The network loses, doubles and reorders; an enrolled edge says it were another. */
active proctype Network() {
  mtype kind; byte a, b, c, d, f, g, k, l;
end:
  do
  :: d_step { up?kind(a, b, c, d, f, g, k, l) -> a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
  :: d_step { down?kind(a, b, c, d, f, g, k, l) -> a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
  :: d_step { UP > 1 && len(up) == 1 -> up?<kind, a, b, c, d, f, g, k, l>; up!kind(a, b, c, d, f, g, k, l);
       a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
  :: d_step { DOWN > 1 && len(down) == 1 -> down?<kind, a, b, c, d, f, g, k, l>; down!kind(a, b, c, d, f, g, k, l);
       a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
  :: d_step { len(up) == 2 -> up?kind(a, b, c, d, f, g, k, l); up!kind(a, b, c, d, f, g, k, l);
       a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
  :: d_step { len(down) == 2 -> down?kind(a, b, c, d, f, g, k, l); down!kind(a, b, c, d, f, g, k, l);
       a = 0; b = 0; c = 0; d = 0; f = 0; g = 0; k = 0; l = 0; kind = 0 }
#if IMPOSTOR
  :: d_step { impostures < IMPOSTOR && live != 0 && h.floor[live_inc] < N ->
       impostures++; id[EVIL] = EVIL;
       up!BATCH(THEIRS, live, live_inc, h.floor[live_inc] + 1, h.floor[live_inc] + 1, EVIL, 0,
                h.chain[live_inc]) }
#endif
  od
}
