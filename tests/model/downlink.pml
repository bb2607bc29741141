/* The lane from the hub to the edge (docs/protocol.md, "Lanes to the edge"); part of link.pml.

   The hub's journal for the edge is owned state: what is appended is stored, and what the edge has
   acknowledged is deleted. The edge stores effect and floor in one transaction; a batch that came
   waits for that transaction, also when its session ends meanwhile. After a restore of either side
   the journal forks, or the edge is told of a gap.

   A record is known by the number of its making, which stands for its content, its id, and the
   running hash at its seq: a floor is the record that stands there.

   What takes effect twice, by ARCHITECTURE.md: what the edge had before it was restored, and the
   hub had not heard of, or lost. `doubt` has exactly these.                                      */

#ifndef DOWN_MADE
#define DOWN_MADE 3             /* records made in all timelines */
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0              /* the hub deletes what has waited for too long */
#endif
#ifndef DOWN_POISON
#define DOWN_POISON 0           /* the record the edge cannot carry out */
#endif
#ifndef REPORTS
#define REPORTS 0               /* what takes effect is told to the hub, as calls are */
#endif

/* TOLD, down: what it is, epoch, journal, first, last record, record before, set of records.
   TAKEN, up: key, epoch, journal, -, -, record at the floor. REFUSED, up: ... journal, first, last */
mtype = { TOLD, TAKEN, REFUSED };

#define RECORDS 1               /* what a batch is */
#define A_GAP 2
#define A_DEAD 3

/* What an onlooker knows. */
byte told, lives = 1, give_ups, registry_restores;      /* lives of the hub's journal */
byte place[DOWN_MADE + 1];      /* record -> its seq */
byte prior[DOWN_MADE + 1];      /* record -> the one before it in the hub's journal */
byte happened[DOWN_MADE + 1];   /* how often it took effect in the world */
bool gone[DOWN_MADE + 1];       /* an edge was told that it will not, or stored why it cannot */
bool doubt[DOWN_MADE + 1];
bool may_fork_down;             /* one restore of the hub explains one fork */

typedef HubJournal { byte life, start, trimmed, floor, tail; byte at[DOWN_N + 1] }
HubJournal j, j_backup;

/* The hub's half of a session, in memory: where the edge stands, and what was sent it. What the
   edge had before it was restored, up to `s_lost`, is reported once the edge has answered. */
byte s_life, s_floor, s_at, s_reached, s_lost;
byte s_single, s_dead;          /* what refusals taught it */

typedef EdgeFloor {
  byte life, at;
  bool done[DOWN_MADE + 1]; bool gap[DOWN_MADE + 1]; bool refused[DOWN_MADE + 1]
}
EdgeFloor t, t_copy;            /* the edge's store; a copy of it */
byte m_life, m_at;              /* of the session, in memory: of a journal met first the start */
/* The batch that is being stored. */
byte q_kind, q_life, q_first, q_last, q_prev, q_set;

#define has(set, r) ((set >> r) & 1)
#define both_restored (edge_restores && hub_restores + registry_restores)
#define is_settled(r) (r == 0 || t.done[r] || t.gap[r] || t.refused[r])

inline copy_hub_journal(to, from) {
  to.life = from.life; to.start = from.start; to.trimmed = from.trimmed; to.floor = from.floor;
  to.tail = from.tail;
  for (i : 1 .. DOWN_N) { to.at[i] = from.at[i] }
}

inline copy_effects(to, from) {
  to.life = from.life; to.at = from.at;
  for (i : 1 .. DOWN_MADE) {
    to.done[i] = from.done[i]; to.gap[i] = from.gap[i]; to.refused[i] = from.refused[i]
  }
}

inline end_down() {
  s_life = 0; s_floor = 0; s_at = 0; s_reached = 0; s_lost = 0; s_single = 0; s_dead = 0
}

inline forget_batch() { q_kind = 0; q_life = 0; q_first = 0; q_last = 0; q_prev = 0; q_set = 0 }

/* After a restore: what the edge's store does not know, and the hub will send again. */
inline note_restore() {
  for (i : 1 .. DOWN_MADE) {
    if
    :: happened[i] && !t.done[i] && place[i] > j.floor && place[i] <= j.tail &&
       j.at[place[i]] == i -> doubt[i] = true
    :: else
    fi
  }
}

/* -- the hub -------------------------------------------------------------------------------- */

inline append_down() {
  told++; j.tail++; place[told] = j.tail; prior[told] = j.at[j.tail - 1]; j.at[j.tail] = told
}

/* The edge has everything up to `upto`: it is deleted, and must not be missed. */
inline mark(upto) {
  for (i : 1 .. DOWN_N) {
    if
    :: i > j.trimmed && i <= upto -> assert(happened[j.at[i]] || gone[j.at[i]])
    :: else
    fi
  }
  j.floor = upto;
#ifndef NO_DELETE
  if
  :: upto > j.trimmed -> j.trimmed = upto
  :: else
  fi
#endif
}

/* What was given up has no hash any more. */
#ifdef NO_DOUBT
#define is_doubtful false
#else
#define is_doubtful (place[h_at] > j.floor && place[h_at] < j.trimmed)
#endif
#ifdef NO_DOWN_HASH
#define diverges (place[h_at] > j.tail)
#else
#define diverges (place[h_at] > j.tail || place[h_at] < j.start || is_doubtful || \
    ((place[h_at] == j.start || place[h_at] >= j.trimmed) && j.at[place[h_at]] != h_at))
#endif

inline fork_down() {
  assert(may_fork_down || give_ups); may_fork_down = false;
#ifdef REACH_FORK_DOWN
  assert(false);
#endif
#ifndef NO_NEW_LIFE
  lives++; j.life = lives;
#endif
#ifdef NO_EARLY_START
  j.floor = j.trimmed;
#endif
  j.start = j.floor
}

/* What the edge had and the hub has deleted is not sent again: whoever waits for it is told. */
inline report_lost() {
  for (i : 1 .. DOWN_N) {
    if
    :: i > s_floor && i <= s_lost -> assert(!t.done[j.at[i]])
    :: else
    fi
  }
  s_lost = 0
}

inline begin_down(h_life, h_at) {
  end_down();
  if
  :: h_life == j.life && diverges -> fork_down(); s_floor = j.start; s_at = j.at[j.start]
  :: h_life == j.life && !diverges ->
     s_floor = place[h_at]; s_at = h_at;
     if
     :: s_floor > j.floor -> mark(s_floor)
     :: else
     fi
  :: h_life != j.life -> s_floor = j.start; s_at = j.at[j.start]
  fi;
  s_life = j.life; s_reached = s_floor;
  s_lost = (j.floor < j.trimmed -> j.floor : j.trimmed);
#ifndef NO_KNOWN_JOURNAL
  /* Of an edge that knows another journal nobody can say what it had. */
  s_lost = (h_life == j.life || h_life == 0 -> s_lost : 0);
#endif
#ifdef NO_PROOF_OF_LIFE
  report_lost()
#endif
}

/* Anything not acknowledged may be sent, once or often, one or two together. */
inline tell() {
  if
  :: s_floor < j.trimmed ->
     first = s_floor + 1; last = j.trimmed; kind = A_GAP
  :: s_floor >= j.trimmed ->
     if
     :: first = s_floor + 1
     :: s_floor + 2 <= j.tail -> first = s_floor + 2
     fi;
     last = first; kind = RECORDS;
     if
     :: s_dead == first -> kind = A_DEAD
     :: s_dead != first
     :: s_dead != first && !s_single && first < j.tail && s_dead != first + 1 -> last = first + 1
     fi
  fi;
  s_reached = (last > s_reached -> last : s_reached);
  for (i : 1 .. DOWN_N) {
    if
    :: i >= first && i <= last -> r = r | (1 << j.at[i])
    :: else
    fi
  }
  down!TOLD(kind, live, s_life, first, j.at[last],
            (kind == A_GAP -> s_at : j.at[first - 1]), r, 0);
  first = 0; last = 0; r = 0; kind = 0; i = 0
}

inline take_answer() {
#ifdef NO_OWN_ANSWERS
  if
  :: s_life != 0 && place[r] >= s_floor && place[r] <= s_reached ->
#else
  if
  :: s_life != 0 && s == live && inc == s_life ->
     report_lost();
     if
     :: place[r] >= s_floor && place[r] <= s_reached ->
#endif
        s_floor = place[r]; s_at = j.at[s_floor];
        if
        :: s_floor > j.floor -> mark(s_floor)
        :: else
        fi
#ifndef NO_OWN_ANSWERS
     :: else
     fi
#endif
  :: else
  fi
}

inline take_refusal() {
  if
  :: s_life != 0 && s == live && inc == s_life && first == s_floor + 1 ->
     if
     :: first == last -> s_dead = first
     :: first != last -> s_single = 1
     fi
  :: else
  fi
}

inline give_up() {
  give_ups++;
  if
  :: j.trimmed = j.trimmed + 1
  :: j.trimmed = j.tail
  fi;
  end_down(); live = 0; live_inc = 0; live_key = 0
}

inline copy_down() { copy_hub_journal(j_backup, j) }

/* A new registry: the journal begins anew, under a name of its own. */
inline lose_hub_journal() {
  lives++; j.life = lives; j.start = 0; j.trimmed = 0; j.floor = 0; j.tail = 0;
  for (i : 1 .. DOWN_N) { j.at[i] = 0 }
  copy_down(); end_down()
}

inline restore_hub_journal() {
  copy_hub_journal(j, j_backup); may_fork_down = true; end_down(); note_restore()
}

/* -- the edge ------------------------------------------------------------------------------- */

/* A journal that the edge does not know is taken from its start on. */
inline begin_taking(theirs, its_start) {
  if
  :: t.life == theirs -> m_life = theirs; m_at = t.at
  :: t.life != theirs -> m_life = theirs; m_at = its_start
  fi
}

#ifdef NO_DOWN_FENCE
#define is_of_session (epoch != 0)
#else
#define is_of_session (epoch != 0 && s == epoch)
#endif

inline hear(what, its_life, its_first, its_last, before_it, records) {
  if
  :: is_of_session && its_life == m_life && !q_kind && its_first == place[m_at] + 1 ->
     q_kind = what; q_life = its_life; q_first = its_first; q_last = its_last;
     q_prev = before_it; q_set = records
  :: else
  fi
}

#ifdef NO_PREV_CHAIN
#define follows (q_life == m_life && q_first == place[m_at] + 1)
#else
#define follows (q_life == m_life && q_first == place[m_at] + 1 && q_prev == m_at)
#endif

inline take_effect() {
  for (i : 1 .. DOWN_MADE) {
    if
    :: has(q_set, i) ->
       /* Nothing before what came before it, unless the edge knows that it is gone. */
       assert(is_settled(prior[i]) || both_restored)
    :: else
    fi;
    if
    :: has(q_set, i) && q_kind == RECORDS ->
       if
#ifdef NO_EFFECT_IDS
       :: true ->
#else
       :: t.done[i]
       :: !t.done[i] ->
#endif
          happened[i] = (happened[i] < 2 -> happened[i] + 1 : 2);
          assert(happened[i] == 1 || doubt[i]);
          t.done[i] = true;
#if REPORTS
          append(); report_of[made] = i
#endif
       fi
    :: has(q_set, i) && q_kind == A_GAP ->
#ifdef REACH_GAP_DOWN
       assert(false);
#endif
#ifndef NO_GAP_EVENT
       t.gap[i] = true;
#endif
       gone[i] = true
    :: has(q_set, i) && q_kind == A_DEAD -> t.refused[i] = true; gone[i] = true
    :: else
    fi
  }
}

inline drop_what_cannot() { q_set = q_set & (255 - (1 << DOWN_POISON)); take_effect() }

inline forget_memory() { m_life = 0; m_at = 0; forget_batch() }

inline reach_floor() { t.life = q_life; t.at = q_last; m_at = q_last }

#if REPORTS
#define has_room(count) (made + count <= MADE && e.tail + count <= N)
#define may_store (has_room(2) || (has_room(1) && q_first == place[q_last]) || q_kind != RECORDS)
byte report_of[MADE + 1];       /* record of the edge -> what it reports */
#else
#define may_store true
#endif

#define cannot (q_kind == RECORDS && DOWN_POISON && has(q_set, DOWN_POISON))
