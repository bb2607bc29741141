"""Topics of devices that know nothing of ThingsBoard, by `[[mqtt.topics]]`.   [sans-IO]"""

import csv
import datetime
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from edgesync.errors import ConfigError
from edgesync.model import Reading, Value
from edgesync.serve.devices.thingsboard import Device, Message, Refused
from edgesync.serve.devices.values import (
    BadPayload,
    checked_name,
    checked_text,
    in_range,
    number,
    number_as_stored,
    parse_json,
    typed,
)
from edgesync.serve.mqtt.packets import Reason
from edgesync.serve.mqtt.settings import TopicSettings
from edgesync.serve.mqtt.topics import is_valid_filter

DEPTH_MAX: Final = 8
CACHED: Final = 4096
TOPIC_CHARS_MAX: Final = 1000  # for the cache is bounded in bytes, too
_NAME = re.compile(r"\{(\w+)\}")
_SCALES: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DIGITS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|-?\.[0-9]+")


class TopicMap:
    """The mappings of a file, in its order: the first whose pattern matches counts.

    may_name  whether a device may speak for an entity of this name
    """

    def __init__(
        self,
        settings: Sequence[TopicSettings],
        *,
        cast: bool,
        may_name: Callable[[Device, str], bool],
    ) -> None:
        self._rules = [_Rule(one, index) for index, one in enumerate(settings)]
        self._cast = cast
        self._may_name = may_name
        self._find = functools.lru_cache(CACHED)(self._found)

    def _found(self, topic: str) -> "tuple[_Rule, Mapping[str, str]] | None":
        for rule in self._rules:
            if (names := rule.match(topic)) is not None:
                return rule, names
        return None

    def message(self, device: Device, topic: str, payload: bytes, now_ns: int) -> Message | None:
        """Return what a message means, None if no pattern matches; raises BadPayload, Refused."""
        found = self._find(topic) if len(topic) <= TOPIC_CHARS_MAX else None
        if found is None:
            return None
        rule, names = found
        names = {**names, "client": device.name}
        entity = checked_name("entity", rule.entity.format_map(names))
        if not self._may_name(device, entity):
            raise Refused(
                Reason.NOT_AUTHORIZED, f"{device.name} may not speak for {entity[:100]!r}"
            )
        readings = [
            Reading(
                entity, checked_name("key", rule.key.format_map({**names, "key": key})), value,
                time_ns, rule.unit,
            )
            for key, value, time_ns in rule.values(payload, now_ns, self._cast)
        ]  # fmt: skip
        return Message(readings=readings)


class _Rule:
    """One mapping, with its patterns taken apart; raises ConfigError for what cannot be meant."""

    def __init__(self, settings: TopicSettings, index: int) -> None:
        self._where = f"mqtt.topics[{index}]"
        self._settings = settings
        self.unit = settings.unit
        self._levels = settings.topic.split("/")
        plain = "/".join("+" if _NAME.fullmatch(level) else level for level in self._levels)
        if not is_valid_filter(plain) or "{" in plain or "}" in plain:
            raise self._error(
                "topic", f"{settings.topic!r} is no pattern",
                "a level is text, + or {name}; # may stand at the end",
            )  # fmt: skip
        names = _NAME.findall(settings.topic)
        if len({*names, "client", "key"}) < len(names) + 2:
            raise self._error("topic", "a name twice, or one of {client} and {key}", "rename it")
        is_single = settings.format in ("number", "text")
        self.entity = settings.entity or ("{device}" if "device" in names else "{client}")
        self.key = settings.key or (self._levels[-1] if is_single else "{key}")
        if not settings.key and is_single and self._levels[-1] in ("+", "#"):
            raise self._error("key", "is missing", "say what the values are called")
        known = {*names, "client"}
        self._check("entity", self.entity, known)
        self._check("key", self.key, known if is_single else {*known, "key"})
        if settings.format == "csv" and not settings.columns:
            raise self._error("columns", "is missing", "name the columns of the CSV in order")

    def _check(self, field: str, template: str, known: set[str]) -> None:
        unknown = [name for name in _NAME.findall(template) if name not in known]
        if unknown or "{" in _NAME.sub("", template) or "}" in _NAME.sub("", template):
            listed = ", ".join(f"{{{name}}}" for name in sorted(known))
            raise self._error(field, f"{template!r} names what is not known", f"known: {listed}")

    def _error(self, field: str, problem: str, remedy: str) -> ConfigError:
        return ConfigError(
            file="settings", field=f"{self._where}.{field}", problem=problem, remedy=remedy
        )

    def match(self, topic: str) -> dict[str, str] | None:
        """Return the named levels of a topic, None if it does not match."""
        levels = topic.split("/")
        found: dict[str, str] = {}
        for index, wanted in enumerate(self._levels):
            if wanted == "#":
                return found
            if index == len(levels):
                return None
            if name := _NAME.fullmatch(wanted):
                found[name[1]] = levels[index]
            elif wanted not in ("+", levels[index]):
                return None
        return found if len(levels) == len(self._levels) else None

    def values(self, payload: bytes, now_ns: int, cast: bool) -> Iterator[tuple[str, Value, int]]:
        """Yield key, value and time of what a payload holds; raises BadPayload."""
        match self._settings.format:
            case "json":
                found = parse_json(payload)
                items = found if isinstance(found, list) else [found]
                for index, item in enumerate(items):
                    field = f"[{index}]" if isinstance(found, list) else ""
                    yield from self._members(field, item, now_ns, cast)
            case "csv":
                yield from self._rows(_text(payload), now_ns)
            case "number":
                yield "", self._number(_text(payload).strip()), now_ns
            case "text":
                yield "", checked_text("payload", _text(payload)), now_ns

    def _members(
        self, field: str, item: Any, now_ns: int, cast: bool
    ) -> Iterator[tuple[str, Value, int]]:
        if not isinstance(item, dict):
            raise BadPayload(field or "payload", "is no object")
        flat = dict(_flat("", item, DEPTH_MAX))
        wanted = self._settings.keys
        time_ns = now_ns
        if self._settings.time and (when := flat.pop(self._settings.time, None)) is not None:
            time_ns = self._time(f"{field}.{self._settings.time}".lstrip("."), when)
        for key, value in flat.items():
            if wanted and key not in wanted:
                continue
            stored = typed(f"{field}.{key}".lstrip(".")[:100], value, cast=cast)
            if stored is not None:
                yield key, stored, time_ns

    def _rows(self, text: str, now_ns: int) -> Iterator[tuple[str, Value, int]]:
        columns = self._settings.columns
        try:
            for line, row in enumerate(csv.reader(text.splitlines()), start=1):
                if not row:
                    continue
                if len(row) != len(columns):
                    raise BadPayload(
                        f"line {line}", f"{len(row)} columns; [[mqtt.topics]] names {len(columns)}"
                    )
                named = {name: one.strip() for name, one in zip(columns, row, strict=True)}
                time_ns = now_ns
                if self._settings.time and (when := named.pop(self._settings.time, "")):
                    time_ns = self._time(f"line {line}.{self._settings.time}", when)
                for key, one in named.items():
                    if not key or not one:
                        continue
                    where = f"line {line}.{key}"
                    yield (
                        key,
                        number_as_stored(where, one)
                        if _is_number(one)
                        else checked_text(where, one),
                        time_ns,
                    )
        except csv.Error as error:
            raise BadPayload("payload", f"is not CSV: {error}") from error

    def _number(self, text: str) -> Value:
        if not _is_number(text):
            raise BadPayload("payload", f"{text[:40]!r} is no number")
        return number_as_stored("payload", text)

    def _time(self, field: str, value: Any) -> int:
        unit = self._settings.time_unit
        if unit == "iso":
            try:
                moment = datetime.datetime.fromisoformat(value)
            except (TypeError, ValueError) as error:
                raise BadPayload(field, f"{str(value)[:40]!r} is no time in ISO 8601") from error
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.UTC)
            since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            return in_range(field, micros * 1000)
        if isinstance(value, str) and _is_number(value):
            value = number(value)
        if type(value) is int:
            return in_range(field, value * _SCALES[unit])
        if type(value) is float and abs(value) < 1e19:
            return in_range(field, round(value * _SCALES[unit]))
        raise BadPayload(field, f"{str(value)[:40]!r} is no time in {unit} since 1970")


def _flat(prefix: str, item: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield members, those of objects inside as `outer.inner`."""
    for key, value in item.items():
        if isinstance(value, dict) and depth:
            yield from _flat(f"{prefix}{key}.", value, depth - 1)
        else:
            yield prefix + key, value


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise BadPayload("payload", "is not UTF-8") from error


def _is_number(text: str) -> bool:
    return _DIGITS.fullmatch(text) is not None and len(text) <= 40
