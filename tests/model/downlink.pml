/* Commands from the hub to the edge: the same protocol mirrored (R10), for spin.

   The hub keeps a journal of commands, the edge their floor. A command moves a device, so it must
   take effect once, not after its time, and what the hub reads as done must be true after any
   crash. test_model.py leaves out one rule at a time.                                          */

#define N 2             /* commands */
#define CRASHES 2       /* of the edge */
#define GREETINGS 3

mtype = { HELLO, COMMAND, ACK };

chan down = [2] of { mtype, byte, byte };       /* kind, epoch, seq */
chan up = [2] of { mtype, byte, byte, byte };   /* kind, epoch, floor, done up to */

/* The edge's store. */
byte floor, done;
bool inbox[N + 1];

/* The device, which no transaction reaches: it knows only the keys of the commands it obeyed. */
byte effects[N + 1];

bool expired[N + 1];
byte tail, acked, live;         /* of the hub */
byte epoch, epochs, crashes;    /* of the edge */
bool is_half_done;              /* the first of two steps was made */

active proctype Hub() {
  byte s, f, d, i;
end:
  do
  :: d_step { tail < N -> tail++ }
  :: d_step { up?HELLO(s, f, d) -> live = s; acked = f; s = 0; f = 0; d = 0 }
  :: d_step { live != 0 && acked < tail -> down!COMMAND(live, acked + 1) }
  :: d_step { up?ACK(s, f, d) ->
       if
       :: s == live ->
          acked = (f > acked -> f : acked);
          for (i : 1 .. N) {
            assert(i > f || inbox[i]);
            assert(i > d || effects[i] == 1 || expired[i])
          }
       :: else
       fi;
       s = 0; f = 0; d = 0; i = 0 }
  od
}

inline obey(q) {
  if
#ifdef NO_EXPIRY
  :: true ->
#else
  :: expired[q]
  :: !expired[q] ->
#endif
     assert(!expired[q]);
#ifdef NO_IDEMPOTENCE
     effects[q]++;
#else
     effects[q] = 1;
#endif
     assert(effects[q] == 1)
  fi
}

active proctype Edge() {
  byte s, q;
end:
  do
  :: d_step { epoch == 0 && epochs < GREETINGS ->
       epochs++; epoch = epochs; up!HELLO(epoch, floor, done) }
  :: d_step { down?COMMAND(s, q) ->
       if
       :: s == epoch && q == floor + 1 ->
          floor = q;
#ifndef NO_ONE_STEP
          inbox[q] = true
#endif
       :: else
       fi;
       s = 0; q = 0 }
#ifdef NO_ONE_STEP
  :: d_step { floor > 0 && !inbox[floor] && epoch != 0 -> inbox[floor] = true }
#endif
  /* First the device, then the note that it obeyed: a crash between them asks it again. */
#ifdef NO_DURABLE_REPORT
  :: d_step { !is_half_done && done < floor && inbox[done + 1] -> done++; is_half_done = true }
  :: d_step { is_half_done -> obey(done); is_half_done = false }
#else
  :: d_step { !is_half_done && done < floor && inbox[done + 1] ->
       obey(done + 1); is_half_done = true }
  :: d_step { is_half_done -> done++; is_half_done = false }
#endif
  :: d_step { epoch != 0 -> up!ACK(epoch, floor, done) }
  :: d_step { crashes < CRASHES -> crashes++; epoch = 0; is_half_done = false }
  od
}

active proctype World() {
end:
  do
  :: d_step { tail > 0 && !expired[tail] && effects[tail] == 0 -> expired[tail] = true }
  :: up?_, _, _, _
  :: down?_, _, _
  od
}
