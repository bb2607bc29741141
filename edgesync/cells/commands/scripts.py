"""Scripts: EVAL, EVALSHA, their read-only forms, and SCRIPT."""

from collections.abc import Sequence

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import Call, command, integer, numbered
from edgesync.cells.scripts import Scripts

NO_KEYS = (0, 0, 0)
SCRIPT_HELP = """SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
EXISTS <sha1> [<sha1> ...]
    Return information about the existence of the scripts in the script cache.
FLUSH [ASYNC|SYNC]
    Flush the Lua scripts cache.
KILL
    There is never a script to be killed: each ends by its limits.
LOAD <script>
    Load a script into the scripts cache without executing it.
HELP
    Prints this help."""


def _scripts(call: Call) -> Scripts:
    if call.scripts is None:
        raise ReplyError("ERR scripts run at edges")
    return call.scripts


def _run(call: Call, sha: str, args: Sequence[bytes], *, read_only: bool) -> Reply:
    count = integer(args[0])
    if count < 0:
        raise ReplyError("ERR Number of keys can't be negative")
    if count > len(args) - 1:
        raise ReplyError("ERR Number of keys can't be greater than number of args")
    keys, rest = list(args[1 : count + 1]), list(args[count + 1 :])
    return _scripts(call).run(sha, keys, rest, read_only=read_only)


def _known(call: Call, raw: bytes) -> str:
    if not _scripts(call).has(raw):
        raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
    return raw.decode().lower()


@command("eval", -3, writes=True, keys=NO_KEYS, movable=numbered(2))
def eval_(call: Call, args: Sequence[bytes]) -> Reply:
    """EVAL script numkeys [key ...] [arg ...]."""
    return _run(call, _scripts(call).load(args[0]), args[1:], read_only=False)


@command("eval_ro", -3, keys=NO_KEYS, movable=numbered(2))
def eval_ro(call: Call, args: Sequence[bytes]) -> Reply:
    return _run(call, _scripts(call).load(args[0]), args[1:], read_only=True)


@command("evalsha", -3, writes=True, keys=NO_KEYS, movable=numbered(2))
def evalsha(call: Call, args: Sequence[bytes]) -> Reply:
    return _run(call, _known(call, args[0]), args[1:], read_only=False)


@command("evalsha_ro", -3, keys=NO_KEYS, movable=numbered(2))
def evalsha_ro(call: Call, args: Sequence[bytes]) -> Reply:
    return _run(call, _known(call, args[0]), args[1:], read_only=True)


@command("script", -2, keys=NO_KEYS)
def script(call: Call, args: Sequence[bytes]) -> Reply:
    """SCRIPT LOAD | EXISTS | FLUSH | KILL | HELP."""
    word, rest = args[0].lower(), args[1:]
    if word == b"load" and len(rest) == 1:
        return _scripts(call).load(rest[0]).encode()
    if word == b"exists" and rest:
        return [int(_scripts(call).has(sha)) for sha in rest]
    if word == b"flush" and len(rest) <= 1:
        if rest and rest[0].lower() not in (b"sync", b"async"):
            raise ReplyError("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
        _scripts(call).flush()
        return "OK"
    if word == b"kill" and not rest:
        raise ReplyError("NOTBUSY No scripts in execution right now.")
    if word == b"help" and not rest:
        return SCRIPT_HELP.splitlines()
    if word in (b"load", b"exists", b"flush", b"kill", b"help"):
        raise ReplyError(f"ERR wrong number of arguments for 'script|{word.decode()}' command")
    shown = args[0].decode(errors="replace")
    raise ReplyError(f"ERR unknown subcommand '{shown}'. Try SCRIPT HELP.")
