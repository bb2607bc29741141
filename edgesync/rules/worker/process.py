"""The process that runs scripts: frames on its standard input, one answer for each on its output.

    4 bytes length, little-endian | JSON: {"load": id, body, names, tbel}
                                    or {"call": id, json, now, cpu}

It ends when its input does. `python -m edgesync.rules.worker.process` is started by the supervisor
and by nobody else.
"""

import json
import re
import resource
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

try:
    import quickjs
except ModuleNotFoundError:  # of the extra [scripts]; the supervisor says so
    quickjs = None

MEMORY_BYTES: Final = 8 << 20  # of one script
STACK_BYTES: Final = 256 * 1024
LOAD_CPU_S: Final = 0.05
PROCESS_BYTES: Final = 512 << 20
ANSWER_CHARS_MAX: Final = 1 << 20
PROBLEM_CHARS_MAX: Final = 300
SIZE: Final = struct.Struct("<I")
HERE: Final = Path(__file__).parent
# TBEL's own forms, which no JavaScript engine reads.
FOREACH: Final = re.compile(r"\b(?:foreach|for)\s*\(\s*(?:var\s+|let\s+)?([A-Za-z_$][\w$]*)\s*:\s*")
LENGTH: Final = re.compile(r"\.length\s*\(\s*\)")
RETURN: Final = re.compile(r"\breturn\b")
# Where an exception comes from, and where a script cannot be read. QuickJS counts the lines of a
# function's body from its third on; those of our own files are moved behind all that scripts have.
FRAME: Final = re.compile(r"\(<input>:(\d+):\d+\)$", re.M)
UNREADABLE: Final = re.compile(r"at <input>:(\d+):\d+$", re.M)
HEADER_LINES: Final = 2
OWN_LINES: Final = 1 << 13


class Script:
    """One script in a context of its own, made anew after it ran out of time or memory."""

    def __init__(self, body: str, names: list[str], is_tbel: bool) -> None:
        if is_tbel:
            body = LENGTH.sub(".length", FOREACH.sub(r"for (var \1 of ", body))
        self._bodies, self._names, self._is_tbel = [body], names, is_tbel
        if is_tbel and not RETURN.search(body):  # its value is that of its last expression
            self._bodies.append(f"return eval({json.dumps(HEADER_LINES * chr(10) + body)});")
        self._context: Any = None
        self._call: Any = None
        self._run: Any = None
        self._make()

    def _make(self) -> None:
        context = quickjs.Context()
        context.set_memory_limit(MEMORY_BYTES)
        context.set_max_stack_size(STACK_BYTES)
        context.set_time_limit(LOAD_CPU_S)
        for name in ("prelude.js", "tbel.js") if self._is_tbel else ("prelude.js",):
            context.eval(OWN_LINES * "\n" + (HERE / name).read_text())
        for body in self._bodies:  # the first tells what is wrong with it, the last runs
            words = ", ".join(json.dumps(one) for one in [*self._names, body])
            self._run = context.eval(f"new Function({words})")
        self._call = context.eval("__call")
        context.eval("delete globalThis.__call")
        self._context = context

    def __call__(self, arguments: str, now_ms: int, cpu_s: float) -> str:
        if self._context is None:
            self._make()
        self._context.set_time_limit(cpu_s)
        try:
            # A float: QuickJS would be handed the lower 32 bits of an int.
            found = self._call(self._run, arguments, float(now_ms))
        except quickjs.JSException as error:
            if is_exhausted(str(error)):
                self._context = self._call = self._run = None
            raise
        return str(found)


def is_exhausted(problem: str) -> bool:
    return problem.startswith("InternalError") or "out of memory" in problem or problem == "null"


def short(problem: str, cpu_s: float, where: re.Pattern[str]) -> str:
    """Return a script's exception as one line for people, with the line of the script."""
    first = problem.strip().splitlines()[0] if problem.strip() else ""
    if "interrupted" in first:
        first = f"the script took more than {cpu_s * 1000:.0f} ms"
    elif first == "null" or "out of memory" in first:
        first = f"the script took more than {MEMORY_BYTES >> 20} MB"
    lines = (int(line) for line in where.findall(problem))
    line = next((one - HEADER_LINES for one in lines if HEADER_LINES < one < OWN_LINES), None)
    return first[:PROBLEM_CHARS_MAX] + ("" if line is None else f" (line {line} of the script)")


def answer(scripts: dict[str, Script], request: dict[str, Any]) -> dict[str, Any]:
    cpu_s = request.get("cpu", LOAD_CPU_S)
    try:
        if "load" in request:
            names, is_tbel = request["names"], request["tbel"]
            scripts[request["load"]] = Script(request["body"], names, is_tbel)
            return {}
        found = scripts[request["call"]](request["json"], request["now"], cpu_s)
    except quickjs.JSException as error:
        where = UNREADABLE if "load" in request else FRAME
        return {"problem": short(str(error), cpu_s, where), "slow": "interrupted" in str(error)}
    except (KeyError, MemoryError, quickjs.StackOverflow) as error:
        return {"problem": f"{type(error).__name__}: {error}"[:PROBLEM_CHARS_MAX]}
    if len(found) > ANSWER_CHARS_MAX:
        return {"problem": f"the script returned {len(found)} characters"}
    return {"json": found}


def limit() -> None:
    for what, most in (
        (resource.RLIMIT_AS, PROCESS_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (most, most))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    scripts: dict[str, Script] = {}
    while len(head := source.read(SIZE.size)) == SIZE.size:
        request = json.loads(source.read(SIZE.unpack(head)[0]))
        reply = json.dumps(answer(scripts, request)).encode()
        sink.write(SIZE.pack(len(reply)) + reply)
        sink.flush()


if __name__ == "__main__":
    limit()
    serve(sys.stdin.buffer, sys.stdout.buffer)
