"""Lua scripts of Redis clients: EVAL and its like, through `lupa` (extra `[lua]`).

A script runs to its end between two commands, sees what is so at this edge, and what it writes are
operations like any others. It is bounded in memory, instructions and time of the processor; one
that ends by a limit, or needs values that are at the hub, has written nothing.

Between Python and Lua go scalars only: requests and replies cross as RESP, and are taken apart in
Lua, where running out of memory is an error and not the end of the process.
"""

import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from edgesync._native.commands import TABLE, EvictedReply, carry_out, miscounted
from edgesync._native.resp import ReplyError, encode
from edgesync.cells import Reply
from edgesync.cells.guard import Savepoint

if TYPE_CHECKING:
    from edgesync.cells.commands.table import Call

log = logging.getLogger(__name__)

MEMORY_BYTES: Final = 16 << 20
# What crosses needs room beside itself, for a failed allocation there would end the process.
RESERVE_BYTES: Final = 2 << 20
INSTRUCTIONS_MAX: Final = 10_000_000
CPU_S: Final = 0.1
SCRIPTS_MAX: Final = 1000
SCRIPTS_BYTES_MAX: Final = 16 << 20
NOT_HERE: Final = "ERR This Redis command is not allowed from script"
READ_ONLY: Final = "ERR Write commands are not allowed from read-only scripts."
MISSING: Final = (
    "ERR scripts need Lua, which is not installed here: pip install 'edgesync[lua]', "
    "then restart the edge"
)
STOPPED: Final = {
    "instructions": "it ran for more than {instructions} instructions",
    "time": "it ran for more than {cpu_s:g} s ([cells] script_cpu)",
    "memory": "it needed more than {memory} bytes of memory",
}
# Of `#!lua flags=…`; all but the first are about what an edge does not have.
FLAGS: Final = (b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys")
LEVELS: Final = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)


class Scripts:
    """Scripts by the SHA1 of their text, and the VM they run in; made when the first one comes.

    A VM that has met a limit is replaced: nobody knows what is left in it.
    """

    def __init__(
        self, call: "Call", savepoint: Callable[[], Savepoint], *, cpu_s: float = CPU_S
    ) -> None:
        self._call = call
        self._savepoint = savepoint
        self._cpu_s = cpu_s
        self._sources: dict[str, bytes] = {}
        self._bytes = 0
        self._vm: _Vm | None = None
        self._is_read_only = False
        self._is_running = False
        self._evicted: EvictedReply | None = None
        self.publish: Callable[[bytes, bytes], int] = lambda _name, _message: 0
        self.on_command: Callable[[list[bytes]], None] = lambda _request: None

    # -- what is known -------------------------------------------------------------------------

    def load(self, source: bytes) -> str:
        """Keep a script; returns its SHA1. Raises ReplyError when it is none."""
        sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        if sha in self._sources:
            return sha
        if len(source) > SCRIPTS_BYTES_MAX // 16:
            raise ReplyError(f"ERR a script of over {SCRIPTS_BYTES_MAX // 16} bytes")
        _flags_of(source)
        problem = self._machine(len(source)).load(sha, _body_of(source), self._cpu_s)
        if problem:
            raise ReplyError(f"ERR Error compiling script (new function): {problem}")
        self._sources[sha] = source
        self._bytes += len(source)
        if len(self._sources) > SCRIPTS_MAX or self._bytes > SCRIPTS_BYTES_MAX:
            # Clients load what is gone once more: they know NOSCRIPT.
            log.warning("scripts: over %d of them, all are forgotten", len(self._sources) - 1)
            self.flush()
            return self.load(source)
        return sha

    def has(self, sha: bytes) -> bool:
        return sha.decode("latin-1").lower() in self._sources

    def flush(self) -> None:
        self._sources, self._bytes, self._vm = {}, 0, None

    @property
    def count(self) -> int:
        return len(self._sources)

    @property
    def memory_bytes(self) -> int:
        return self._bytes + (0 if self._vm is None else self._vm.used_bytes())

    # -- running -------------------------------------------------------------------------------

    def run(self, sha: str, keys: list[bytes], args: list[bytes], *, read_only: bool) -> Reply:
        """Run a script that was loaded."""
        if self._is_running:
            raise ReplyError(NOT_HERE)
        source = self._sources[sha]
        flags = _flags_of(source)
        if read_only and flags is not None and b"no-writes" not in flags:
            raise ReplyError("ERR Can not execute a script with write flag using *_ro command.")
        words = encode([[keys, args]], 2)
        vm = self._machine(2 * len(words) + len(source))
        if not vm.has(sha) and (problem := vm.load(sha, _body_of(source), self._cpu_s)):
            raise ReplyError(f"ERR Error compiling script (new function): {problem}")
        self._is_read_only = read_only or b"no-writes" in (flags or ())
        self._evicted = None
        self._is_running = True
        savepoint = self._savepoint()
        try:
            ending, text, line = vm.run(sha, words, self._cpu_s)
        except BaseException:
            savepoint.undo()
            self._vm = None
            raise
        finally:
            self._is_running = False
        if ending in ("done", "failed"):
            savepoint.keep()
            if ending == "done":
                return _decoded(text)
            place = f", on @user_script:{line}." if line else ""
            shown = text.decode(errors="replace").replace("\r", " ").replace("\n", " ")
            return ReplyError(f"{shown} script: {sha}{place}")
        savepoint.undo()
        if ending == "command":
            return self._stopped_by_command(vm)
        self._vm = None
        why = STOPPED[ending].format(
            instructions=INSTRUCTIONS_MAX, cpu_s=self._cpu_s, memory=MEMORY_BYTES
        )
        log.warning("script %s was ended: %s", sha, why)
        return ReplyError(
            f"ERR the script was ended, and has written nothing: {why}; script: {sha}"
        )

    def _stopped_by_command(self, vm: "_Vm") -> Reply:
        problem, vm.problem = vm.problem, None
        if problem is not None:
            raise problem
        if self._evicted is not None:
            return self._evicted
        self._vm = None
        return ReplyError(
            "ERR the script was ended, and has written nothing: a reply larger than its memory"
        )

    def _machine(self, nbytes: int) -> "_Vm":
        """Return the VM, with room for so many bytes."""
        if nbytes > MEMORY_BYTES - 2 * RESERVE_BYTES:
            raise ReplyError(
                f"ERR keys and arguments of a script of over {MEMORY_BYTES // 2} bytes"
            )
        if self._vm is not None and not self._vm.has_room(nbytes):
            self._vm = None  # whatever fills it: the next one is empty
        if self._vm is None:
            self._vm = _Vm(self._answer)
        return self._vm

    def _answer(self, request: list[bytes]) -> Reply:
        """Answer a command of a script; after an EvictedReply it has to end."""
        reply = self._carry_out(request)
        if isinstance(reply, EvictedReply):
            self._evicted = reply
        return reply

    def _carry_out(self, request: list[bytes]) -> Reply:
        name = request[0].lower()
        if name in OTHERS:
            run, arity = OTHERS[name]
            if miscounted(name.decode(), arity, request):
                return _miscounted()
            if name == b"publish" and self._is_read_only:
                return ReplyError(READ_ONLY)
            self.on_command(request)
            return run(self, request)
        one = TABLE.get(name)
        if one is None:
            unknown = "ERR Unknown Redis command called from script"
            return ReplyError(NOT_HERE if name in REFUSED else unknown)
        if name in REFUSED:
            return ReplyError(NOT_HERE)
        if one.writes and self._is_read_only:
            return ReplyError(READ_ONLY)
        if miscounted(one.name, one.arity, request):
            return _miscounted()
        self.on_command(request)
        return carry_out(self._call, request)

    def _publish(self, request: list[bytes]) -> Reply:
        return self.publish(request[1], request[2])

    def _time(self, _request: list[bytes]) -> Reply:
        seconds, ms = divmod(self._call.space.now_ms, 1000)
        return [b"%d" % seconds, b"%d" % (ms * 1000)]

    def _select(self, request: list[bytes]) -> Reply:
        return "OK" if request[1] == b"0" else ReplyError("ERR DB index is out of range")


def _flags_of(source: bytes) -> list[bytes] | None:
    """Return what the line `#!lua flags=…` says; None without one. Raises ReplyError."""
    if not source.startswith(b"#!"):
        return None
    line, end, _ = source.partition(b"\n")
    if not end:
        raise ReplyError("ERR Invalid script shebang")
    engine, *options = line.split()
    if engine != b"#!lua":
        raise _refused("Unexpected engine in script shebang", engine)
    flags = list[bytes]()
    for option in options:
        if not option.startswith(b"flags="):
            raise _refused("Unknown lua shebang option", option)
        flags += filter(None, option.removeprefix(b"flags=").split(b","))
    for flag in flags:
        if flag not in FLAGS:
            raise _refused("Unexpected flag in script shebang", flag)
    return flags


def _refused(problem: str, word: bytes) -> ReplyError:
    return ReplyError(f"ERR {problem}: {word[:128].decode(errors='replace')}")


def _body_of(source: bytes) -> bytes:
    """Return what Lua compiles; lines keep their numbers."""
    return source[source.find(b"\n") :] if source.startswith(b"#!") else source


def _miscounted() -> ReplyError:
    return ReplyError("ERR Wrong number of args calling Redis command from script")


# Commands of scripts that are none on keys, and those that are not for scripts.
OTHERS: Final[dict[bytes, tuple[Callable[[Scripts, list[bytes]], Reply], int]]] = {
    b"publish": (Scripts._publish, 3),
    b"time": (Scripts._time, 1),
    b"select": (Scripts._select, 2),
    b"ping": (lambda _scripts, request: request[1] if len(request) > 1 else "PONG", -1),
    b"echo": (lambda _scripts, request: request[1], 2),
}
REFUSED: Final = frozenset(
    b"eval evalsha eval_ro evalsha_ro script multi exec discard watch unwatch subscribe "
    b"unsubscribe psubscribe punsubscribe hello auth client quit reset monitor shutdown wait "
    b"blpop brpop blmove brpoplpush blmpop bzpopmin bzpopmax bzmpop config debug edge info "
    b"flushall flushdb slowlog latency command role".split()
)


class _Vm:
    """One Lua VM with its world (lua/sandbox.lua)."""

    def __init__(self, answer: Callable[[list[bytes]], Reply]) -> None:
        try:
            from lupa.lua51 import LuaRuntime
        except ImportError as error:
            raise ReplyError(MISSING) from error
        self._answer = answer
        self.problem: BaseException | None = None
        self._lua: Any = LuaRuntime(
            encoding=None, max_memory=MEMORY_BYTES, unpack_returned_tuples=True,
            register_eval=False, register_builtins=False, attribute_filter=_refuse_attribute,
        )  # fmt: skip
        null = self._lua.eval("newproxy(false)")
        patterns = self._part("patterns")
        self._api = self._part(
            "sandbox", self._command, self._long_command, _find, _sha1, _log,
            self._lua.table_from(BITS), patterns, self._part("json", null), self._part("msgpack"),
        )  # fmt: skip
        self._known: set[str] = set()

    def _part(self, name: str, *args: object) -> Any:
        source = files("edgesync.cells").joinpath("lua", f"{name}.lua").read_bytes()
        return self._lua.execute(source, *args, name=b"@" + name.encode())

    def used_bytes(self) -> int:
        return int(self._lua.get_memory_used())

    def has_room(self, nbytes: int) -> bool:
        if self._has_room(nbytes):
            return True
        self._lua.gccollect()
        return self._has_room(nbytes)

    def _has_room(self, nbytes: int) -> bool:
        return self.used_bytes() + nbytes + RESERVE_BYTES < MEMORY_BYTES

    def has(self, sha: str) -> bool:
        return sha in self._known

    def load(self, sha: str, source: bytes, cpu_s: float) -> str:
        """Compile a script; returns what is wrong with it, or nothing."""
        problem = self._api.load(sha.encode(), source, INSTRUCTIONS_MAX, cpu_s)
        if problem is not None:
            return str(problem.decode(errors="replace"))
        self._known.add(sha)
        return ""

    def run(self, sha: str, words: bytes, cpu_s: float) -> tuple[str, bytes, int]:
        """Run it; returns how it ended, a reply or an error, and the line of that."""
        from lupa.lua51 import LuaError

        try:
            ending, text, line = self._api.run(sha.encode(), words, INSTRUCTIONS_MAX, cpu_s)
        except LuaError:  # a limit met where the sandbox itself was at work
            return "memory", b"", 0
        return ending.decode(), text, int(line)

    def _command(self, *words: bytes) -> bytes | None:
        """redis.call: a reply as RESP; None when the script has to end."""
        try:
            reply = self._answer(list(words))
            if isinstance(reply, EvictedReply):
                return None
            raw = encode([reply], 2)
        except Exception as error:  # ours: it is not the script's to catch
            self.problem = error
            return None
        return raw if self.has_room(2 * len(raw)) else None

    def _long_command(self, request: bytes) -> bytes | None:
        """redis.call with more words than Lua hands over at once: a request as RESP."""
        words: Any = _decoded(request)
        return self._command(*words)


def _refuse_attribute(_object: object, name: object, _is_setting: bool) -> object:
    """No script reaches into Python, whatever it gets hold of."""
    raise AttributeError(name)


def _find(text: bytes, part: bytes, start: float) -> int:
    # Linear here; C's own would compare each place with the whole of `part`.
    return text.find(part, int(start))


def _sha1(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def _log(level: float, text: bytes) -> None:
    log.log(LEVELS[int(level)], "script: %s", text.decode(errors="replace"))


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _rotated(value: int, by: int) -> int:
    value, by = value & 0xFFFFFFFF, by & 31
    return _signed(value << by | value >> (32 - by))


# The library `bit`: each takes whole numbers, which sandbox.lua has seen to.
BITS: Final[dict[bytes, Callable[..., object]]] = {
    b"tobit": lambda a: _signed(int(a)),
    b"bnot": lambda a: _signed(~int(a)),
    b"band": lambda a, b: _signed(int(a) & int(b)),
    b"bor": lambda a, b: _signed(int(a) | int(b)),
    b"bxor": lambda a, b: _signed(int(a) ^ int(b)),
    b"lshift": lambda a, n: _signed(int(a) << (int(n) & 31)),
    b"rshift": lambda a, n: _signed((int(a) & 0xFFFFFFFF) >> (int(n) & 31)),
    b"arshift": lambda a, n: _signed(_signed(int(a)) >> (int(n) & 31)),
    b"rol": lambda a, n: _rotated(int(a), int(n)),
    b"ror": lambda a, n: _rotated(int(a), 32 - (int(n) & 31)),
    b"bswap": lambda a: _signed(int.from_bytes((int(a) & 0xFFFFFFFF).to_bytes(4, "little"), "big")),
}


def _decoded(text: bytes) -> Reply:
    """Return the reply that stands there as RESP2."""
    reply, _ = _decoded_at(text, 0)
    return reply


def _decoded_at(text: bytes, at: int) -> tuple[Reply, int]:
    end = text.index(b"\r\n", at)
    kind, line, after = text[at : at + 1], text[at + 1 : end], end + 2
    match kind:
        case b"$":
            size = int(line)
            if size < 0:
                return None, after
            return text[after : after + size], after + size + 2
        case b":":
            return int(line), after
        case b"+":
            return line.decode(errors="replace"), after
        case b"-":
            return ReplyError(line.decode(errors="replace")), after
    found: list[Reply] = []
    for _ in range(int(line)):
        one, after = _decoded_at(text, after)
        found.append(one)
    return found, after
