"""Log lines for a service manager: one JSON object each, or plain text for people."""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from edgesync_transport.seldom import Seldom

# Lines of one kind a minute, whatever they are about: what they name may come from outside.
KIND_LINES_MAX: Final = 20
SUBJECT_CHARS_MAX: Final = 100
TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class LoggingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logging]` of edge.toml and hub.toml."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = True


class JsonFormatter(logging.Formatter):
    """time (UTC, ISO 8601), level, logger, message, and error when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class RepeatFilter(logging.Filter):
    """Lets a fault that goes on and on through once a minute, with how often it was in between.

    A fault is told from others by its message as written in the code and by its subject, the
    first argument if that is a name; information by all its leading names. So an edge that flaps
    hides no other edge, and nobody fills a disk with lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seldom = Seldom(clock=clock)
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg))
        is_fault = record.levelno >= logging.WARNING
        names = _names(record)
        again = self._seldom.ask((*kind, *(names[:1] if is_fault else names)))
        if again is None or (is_fault and self._is_too_much(kind)):
            return False
        if again:
            record.msg = f"{record.getMessage()} ({again} more like it)"
            record.args = ()
        return True

    def _is_too_much(self, kind: tuple[str, str]) -> bool:
        # Bounded: a kind is a place in the code.
        now = self._clock()
        since, count = self._kinds.get(kind, (now, 0))
        if now - since >= 60.0:
            since, count = now, 0
        self._kinds[kind] = since, count + 1
        return count >= KIND_LINES_MAX


def _names(record: logging.LogRecord) -> tuple[str, ...]:
    names = list[str]()
    for argument in record.args if isinstance(record.args, tuple) else ():
        if not isinstance(argument, str):
            break
        names.append(argument[:SUBJECT_CHARS_MAX])
    return tuple(names)


def set_up_logging(level: int, *, as_json: bool) -> None:
    """Send all logs to standard error. Only programs call this; the library installs nothing."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(TEXT))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
