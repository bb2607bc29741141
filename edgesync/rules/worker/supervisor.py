"""Keeps the process that runs scripts alive, and answers in its place when it does not.

Every call is answered within WALL_S, or the process is ended (STARVED_S where the machine gave it
little time: then it is not the script that is slow). It is started with the first
call, again after it died (with a growing pause), and stopped when nobody has called for a while. A
script that has taken too long several times in a row for one entity, or for several, is left out
for it, or for all, for a time that doubles: so one poisoned device costs the others nothing. Left
out it gets BRIEF_S, which is plenty for a message that is not poisoned, and now and then only.
"""

import contextlib
import importlib.util
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from edgesync.rules.node import ScriptAnswer, ScriptCall
from edgesync.rules.scripts.script import ScriptSource
from edgesync.rules.scripts.values import whole

log = logging.getLogger(__name__)

WALL_S: Final = 0.25
# On a machine that gave the process no time: it is not the script that is slow.
STARVED_S: Final = 2.0
STARVED_CPU_S: Final = 0.1  # by then QuickJS has ended a script itself
START_S: Final = 20.0  # a machine that is starting is slow
IDLE_S: Final = 60.0
PAUSE_S: Final = (0.1, 30.0)
SLOW_MAX: Final = 3
LEFT_OUT_S: Final = (1.0, 60.0)
CPU_S: Final = 0.05
# For an entity whose last message took too long: all that came with it waits for these, and ten of
# one device are to cost the others less than 100 ms (bench/benchmarks/mqtt.py).
AGAIN_S: Final = 0.01
BRIEF_S: Final = 0.002
BRIEF_MAX: Final = 10  # of a script, in a second: so many that were too long even for that
# Of a script: for how many entities it is known to have taken too long.
ENTITIES_MAX: Final = 1000
HEAD: Final = 4
ANSWER_BYTES_MAX: Final = 16 << 20


def is_installed() -> bool:
    """Return whether QuickJS is here: the extra [scripts] brings it."""
    return importlib.util.find_spec("quickjs") is not None


class WorkerGone(Exception):
    """The process has died, or was ended because it did not answer."""


class Breaker:
    """Counts how often in a row a script took too long, and leaves it out for a while."""

    def __init__(self) -> None:
        self._slow = 0
        self._until_s = 0.0
        self._pause_s = LEFT_OUT_S[0]

    def left_s(self, now_s: float) -> float:
        return self._until_s - now_s

    @property
    def is_counting(self) -> bool:
        return 0 < self._slow < SLOW_MAX

    def note(self, is_slow: bool, now_s: float) -> None:
        if not is_slow:
            self._slow, self._pause_s = 0, LEFT_OUT_S[0]
            return
        self._slow += 1
        if self._slow >= SLOW_MAX:
            self._until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, LEFT_OUT_S[1])


class Breakers:
    """Leaves a script out for the entities that it took too long for, and for all if it did so for
    several of them since it last came to an end.
    """

    def __init__(self) -> None:
        self._all = Breaker()
        self._of: dict[str, Breaker] = {}
        self._slow: set[str] = set()
        self._brief_since_s = 0.0
        self._brief = 0

    def may_be_brief(self, now_s: float) -> bool:
        """Return whether a message may be tried although the script is left out."""
        if now_s - self._brief_since_s >= 1.0:
            self._brief_since_s, self._brief = now_s, 0
        return self._brief < BRIEF_MAX

    def note_brief(self, is_slow: bool) -> None:
        self._brief += is_slow

    def left_s(self, entity: str, now_s: float) -> float:
        own = self._of.get(entity)
        return max(self._all.left_s(now_s), 0.0 if own is None else own.left_s(now_s))

    def cpu_s(self, entity: str) -> float:
        """Return what a message may take where the script is not left out."""
        own = self._of.get(entity)
        return AGAIN_S if own is not None and own.is_counting else CPU_S

    def note(self, entity: str, is_slow: bool, now_s: float) -> None:
        if not is_slow:
            self._of.pop(entity, None)
            self._slow.clear()
            self._all.note(False, now_s)
            return
        if entity not in self._slow and len(self._slow) < ENTITIES_MAX:
            self._slow.add(entity)
            self._all.note(True, now_s)
        self._of.setdefault(entity, Breaker()).note(True, now_s)
        if len(self._of) > ENTITIES_MAX:
            del self._of[next(iter(self._of))]


class ScriptWorker:
    """See the module. Used by one thread at a time; its calls block."""

    def __init__(self, sources: Iterable[ScriptSource]) -> None:
        self.sources = {one.id: one for one in sources}
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._breakers: dict[str, Breakers] = {}
        self._used_s = 0.0
        self._not_before_s = 0.0
        self._pause_s = 0.0  # the first time it is started again at once: others wait for it

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def check(self) -> dict[str, str]:
        """Compile every script; returns what is wrong with those that cannot be. WorkerGone."""
        return self._start()

    def call_all(self, calls: Sequence[ScriptCall], now_ms: int) -> list[ScriptAnswer]:
        """Run scripts, one after the other; returns an answer for each."""
        return [self.call(one, now_ms) for one in calls]

    def call(self, call: ScriptCall, now_ms: int) -> ScriptAnswer:
        now_s = self._used_s = time.monotonic()
        breakers = self._breakers.setdefault(call.script, Breakers())
        left_s = breakers.left_s(call.entity, now_s)
        is_brief = left_s > 0
        left_out = ScriptAnswer(
            problem=f"the script took too long {SLOW_MAX} times in a row: left out for "
            f"{left_s:.0f} s where it takes more than {BRIEF_S * 1000:.0f} ms"
        )
        if is_brief and not breakers.may_be_brief(now_s):
            return left_out
        try:
            if self._process is None:
                if now_s < self._not_before_s:
                    return ScriptAnswer(problem="the script worker has died; it is started again")
                self._start()
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            request = {
                "call": call.script, "json": arguments, "now": now_ms,
                "cpu": BRIEF_S if is_brief else breakers.cpu_s(call.entity),
            }  # fmt: skip
            reply = self._ask(request, WALL_S)
        except WorkerGone as gone:
            breakers.note(call.entity, True, time.monotonic())
            return ScriptAnswer(problem=str(gone))
        except OSError as error:  # no more processes, memory or descriptors: a passing lack
            self._not_before_s = time.monotonic() + PAUSE_S[1]
            return ScriptAnswer(problem=f"the script worker cannot be started: {error}")
        except (ValueError, RecursionError) as error:
            return ScriptAnswer(problem=f"the message cannot be handed to a script: {error}")
        self._pause_s = 0.0
        is_slow = bool(reply.get("slow"))
        if is_brief:
            breakers.note_brief(is_slow)
            if is_slow:
                return left_out
        else:
            breakers.note(call.entity, is_slow, time.monotonic())
        if "problem" in reply:
            return ScriptAnswer(problem=str(reply["problem"]))
        try:
            return ScriptAnswer(value=json.loads(reply["json"], parse_int=whole))
        except (ValueError, RecursionError) as error:
            return ScriptAnswer(problem=f"the script returned what is no JSON: {error}")

    def stop_if_idle(self) -> None:
        if self._process is not None and time.monotonic() - self._used_s > IDLE_S:
            self.close()

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    # -- the process -----------------------------------------------------------------------------

    def _start(self) -> dict[str, str]:
        self.close()
        self.starts += 1
        words = [sys.executable, "-m", "edgesync.rules.worker.process"]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "TZ", "LANG", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH")
        }
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, bufsize=0,
        )  # fmt: skip
        found: dict[str, str] = {}
        for one in self.sources.values():
            request = {
                "load": one.id, "body": one.body, "names": one.names,
                "tbel": one.language == "TBEL",
            }  # fmt: skip
            problem = self._ask(request, START_S).get("problem")
            if problem:
                found[one.id] = str(problem)
        return found

    def _ask(self, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """Return what the process answers; ends it and raises WorkerGone if it does not in time."""
        assert self._process is not None
        data = json.dumps(request).encode()
        begun_s, cpu_s = time.monotonic(), self._cpu_s()
        until_s = begun_s + wall_s
        try:
            self._write(len(data).to_bytes(HEAD, "little") + data, until_s)
            try:
                head = self._read(HEAD, until_s)
            except TimeoutError:
                if self._cpu_s() - cpu_s >= STARVED_CPU_S:
                    raise
                until_s = begun_s + max(wall_s, STARVED_S)
                head = self._read(HEAD, until_s)
            size = int.from_bytes(head, "little")
            if size > ANSWER_BYTES_MAX:
                raise WorkerGone("the script worker answered with nonsense")
            reply: dict[str, Any] = json.loads(self._read(size, until_s))
        except (WorkerGone, OSError, ValueError) as problem:
            code = self._process.poll()
            self.close()
            self._not_before_s = time.monotonic() + self._pause_s
            self._pause_s = min(max(2 * self._pause_s, PAUSE_S[0]), PAUSE_S[1])
            told = "the script worker has died"
            if isinstance(problem, WorkerGone | TimeoutError):
                told = str(problem)
            log.warning("rules: %s (exit code %s)", told, code)
            raise WorkerGone(told) from problem
        return reply

    def _cpu_s(self) -> float:
        """Return the CPU time that the process has had; 0 where nobody can say."""
        assert self._process is not None
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return 0.0

    def _write(self, data: bytes, until_s: float) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        view = memoryview(data)
        while view:
            if not select.select([], [pipe], [], max(until_s - time.monotonic(), 0))[1]:
                raise TimeoutError(f"the script took more than {WALL_S * 1000:.0f} ms")
            view = view[os.write(pipe, view) :]

    def _read(self, size: int, until_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        found = bytearray()
        while len(found) < size:
            if not select.select([pipe], [], [], max(until_s - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the script took more than {WALL_S * 1000:.0f} ms")
            part = os.read(pipe, size - len(found))
            if not part:
                raise WorkerGone("the script worker has died")
            found += part
        return bytes(found)
