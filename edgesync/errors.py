"""Every error a caller of edgesync can meet, sorted by what the caller can do.

    EdgesyncError
      ConfigError             fix the configuration and start again
      StoreError
        StoreLocked           another process has the data directory: stop that one
        StoreFull             wait for the hub, free space, or raise the limit; nothing was written
          LaneFull            as much waits for the hub as one lane may hold; likewise
        StoreCorrupt          stop writing; the files are left as they are
        StoreVersion          the directory was written by a newer edgesync: upgrade
        StoreUnwritable       the disk refused: read-only, no permission, input/output error
      SourceError             one device failed; the others go on
        SourceTimeout         worth a retry
        SourceRejected        the device answered "no": a retry will not help
      RecordError             bytes that are not a valid record, block or batch
        TooManySeries         more names than `[series] max`: those known go on
        BatchTooLarge         more than the reader takes at once: in smaller batches it may be taken
      CommandError            a Redis command that was refused; nothing of it happened
      Evicted                 a value the hub keeps for this edge: ask again once it is reached
      EntityError             an entity, attribute, relation or alarm that cannot be: says what can

There is no LinkError: a hub out of reach is a state (`EdgeNode.status`), since everything
acknowledged is safe in the journal meanwhile.
"""

import os
from collections.abc import Sequence
from pathlib import Path


def sentence_of(error: BaseException) -> str:
    """Return what an operator is told of an error; of one of the system, of which file it is."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes | os.PathLike):
        return str(error)
    path = Path(os.fsdecode(error.filename))
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return f"{path}: there is no folder {path.parent}; make it, or name another one"
    return f"{path}: {error.strerror}"


class EdgesyncError(Exception):
    """Base of all errors below."""


class ConfigError(EdgesyncError):
    """`field` is the path in the file, `remedy` what would be accepted there."""

    def __init__(self, *, file: str, field: str, problem: str, remedy: str = "") -> None:
        tail = f"; {remedy}" if remedy else ""
        super().__init__(f"{file}: {field}: {problem}{tail}")
        self.file = file
        self.field = field
        self.problem = problem
        self.remedy = remedy


class ConfigErrors(ConfigError):
    """Several mistakes at once, the first one's field and file in front."""

    def __init__(self, mistakes: Sequence[ConfigError]) -> None:
        first = mistakes[0]
        super().__init__(
            file=first.file, field=first.field, problem=first.problem, remedy=first.remedy
        )
        self.mistakes = tuple(mistakes)
        self.args = ("\n".join(str(mistake) for mistake in mistakes),)


def gathered(mistakes: Sequence[ConfigError]) -> ConfigError:
    """Return one error of at least one mistake."""
    flat = [
        one
        for mistake in mistakes
        for one in (mistake.mistakes if isinstance(mistake, ConfigErrors) else [mistake])
    ]
    return flat[0] if len(flat) == 1 else ConfigErrors(flat)


class StoreError(EdgesyncError):
    pass


class StoreLocked(StoreError):
    def __init__(self, *, path: str, pid: int | None = None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{path} is in use by {who}; stop it, or choose another directory")
        self.path = path
        self.pid = pid


class StoreFull(StoreError):
    """No room for the write; nothing of it was stored."""

    def __init__(self, *, used_bytes: int, limit_bytes: int, where: str = "store") -> None:
        super().__init__(
            f"{where} full: {used_bytes} of {limit_bytes} bytes used; "
            "it empties when the hub acknowledges, or raise store.limit"
        )
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        self.where = where


class LaneFull(StoreFull):
    def __init__(self, lane: str, used: int, limit: int, unit: str, key: str) -> None:
        StoreError.__init__(
            self,
            f"lane {lane} full: {used} of {limit} {unit} wait for the hub; it empties when the hub "
            f"acknowledges, or raise sync.lanes.{lane}.{key}",
        )
        self.used_bytes = used if unit == "bytes" else 0
        self.limit_bytes = limit if unit == "bytes" else 0
        self.where = f"lane {lane}"


class StoreCorrupt(StoreError):
    def __init__(self, *, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}; it is left as it is, move it aside to start anew")
        self.path = path
        self.problem = problem


class StoreVersion(StoreError):
    def __init__(self, *, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format {found}, this edgesync knows up to {known}; upgrade edgesync"
        )
        self.path = path
        self.found = found
        self.known = known


class StoreUnwritable(StoreError):
    def __init__(self, *, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}; check the disk, its mount options and permissions")
        self.path = path
        self.problem = problem


class SourceError(EdgesyncError):
    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem


class SourceTimeout(SourceError):
    pass


class SourceRejected(SourceError):
    def __init__(self, source: str, problem: str, *, code: int = 0) -> None:
        super().__init__(source, problem)
        self.code = code


class RecordError(EdgesyncError, ValueError):
    """Bytes from outside that are no valid record, block or batch."""


class TooManySeries(RecordError):
    """A reading of a series beyond `[series] max`; nothing of the call was stored."""

    def __init__(self, entity: str, key: str, limit: int) -> None:
        super().__init__(
            f"{entity}/{key}: this edge has {limit} series already; raise [series] max, or put "
            "what varies into the value instead of the name"
        )
        self.limit = limit


class BatchTooLarge(RecordError):
    """A batch whose records come to more than the reader takes; smaller ones of them may do."""


class CommandError(EdgesyncError):
    """What Redis would have replied: `WRONGTYPE …`, `ERR …`."""


class Evicted(EdgesyncError):
    """A value that was moved to the hub to make room."""


class EntityError(EdgesyncError, ValueError):
    """`field` names what is wrong in what was given, `remedy` what would be accepted."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy
