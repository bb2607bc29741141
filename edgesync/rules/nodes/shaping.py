"""Nodes of edgesync: less to store and to send, with the same meaning.   [sans-IO]"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from edgesync._native.window import Window
from edgesync.report import ReportRule, parse_deadband
from edgesync.rules.message import POST_TELEMETRY, Message, Originator, device_message
from edgesync.rules.node import Node, NodeConfig, NodeFailure, Out, Outs, Place, Step
from edgesync.rules.nodes.actions import needs_type
from edgesync.rules.nodes.timing import period
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.values import kind_of, message_time_ns, number

Function = Literal["MIN", "MAX", "AVG", "SUM", "COUNT", "FIRST", "LAST"]
SECOND_NS: Final = 1_000_000_000
# After the end of a window a late message may still come, by its own clock.
LATENESS_S: Final = 2.0


class DeadbandConfig(NodeConfig, frozen=True, kw_only=True):
    """`deadband`: a number in the unit of the key, or a share such as "2%"; of keys not in
    `deadbands`. Unchanged values pass again after `maxAgeSeconds`.
    """

    deadband: float | str | None = None
    deadbands: Mapping[str, float | str] = {}
    max_age_seconds: float | None = None


class Deadband(Node):
    """Lets through what has changed: keys inside their deadband are taken out of the message."""

    node_type = "edgesync.DeadbandNode"
    config = DeadbandConfig
    relations = frozenset({"Success", "Unchanged"})

    def __init__(self, place: Place, config: DeadbandConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._rules = {key: parse_deadband(value) for key, value in config.deadbands.items()}
        self._rule = None if config.deadband is None else parse_deadband(config.deadband)
        self._max_age_s = config.max_age_seconds
        if self._rule is None and not self._rules:
            raise ValueError('deadband is missing; give a number, or a share such as "2%"')

    def process(self, message: Message, step: Step) -> Outs:
        needs_type(message, POST_TELEMETRY)
        if not isinstance(message.data, dict):
            raise NodeFailure(f"data is no object of keys and values, but {kind_of(message.data)}")
        name = str(message.originator)
        last: dict[str, Any] = dict(step.get(name) or {})
        time_ns = message_time_ns(message)
        passing = {
            key: value
            for key, value in message.data.items()
            if self._is_due(key, value, last.get(key), time_ns)
        }
        if not passing:
            return [Out("Unchanged", message)]
        last |= {key: [value, time_ns] for key, value in passing.items()}
        step.put(name, last)
        return [Out("Success", message.changed(data=passing))]

    def _is_due(self, key: str, value: Any, last: Any, time_ns: int) -> bool:
        rule: ReportRule | None = self._rules.get(key, self._rule)
        if rule is None or last is None or not isinstance(value, bool | int | float | str):
            return True
        old, at_ns = last
        if self._max_age_s is not None and time_ns - at_ns >= self._max_age_s * 1e9:
            return True
        both = isinstance(old, int | float) and isinstance(value, int | float)
        if both and not isinstance(old, bool) and not isinstance(value, bool):
            return rule.is_change(float(old), float(value))
        return rule.is_change(old, value)


class WindowConfig(NodeConfig, frozen=True, kw_only=True):
    """`keys`: all numbers, if empty. With one function keys keep their names, else each is
    followed by `_` and the function.
    """

    interval_seconds: float = 60.0
    functions: tuple[Function, ...] = ("AVG",)
    keys: tuple[str, ...] = ()


class WindowNode(Node):
    """Sums readings up in windows of time: one message a window and entity, at its start.

    Windows stand on a grid that begins in 1970. A window ends when a message of a later one comes,
    or by the clock. What comes too late leaves by Late, so nothing is lost silently.
    """

    node_type = "edgesync.WindowNode"
    config = WindowConfig
    relations = frozenset({"Success", "Late"})

    def __init__(self, place: Place, config: WindowConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._width_ns = round(period(config.interval_seconds) * SECOND_NS)
        self._functions = tuple(dict.fromkeys(config.functions))
        self._keys = frozenset(config.keys)
        if not self._functions:
            raise ValueError("functions is empty; name at least one")

    def process(self, message: Message, step: Step) -> Outs:
        needs_type(message, POST_TELEMETRY)
        if not isinstance(message.data, dict):
            raise NodeFailure(f"data is no object of keys and values, but {kind_of(message.data)}")
        name, time_ns = str(message.originator), message_time_ns(message)
        start = time_ns - time_ns % self._width_ns
        held = step.get(name)
        outs: list[Out] = []
        if held is not None and start > held["start"]:
            outs = self._closed(held, message.originator)
            held = None
        elif held is None or start < held["start"]:
            done = step.get(f"{name}\0done")
            if held is not None or (done is not None and start <= done):
                return [Out("Late", message)]
        if held is None:
            held = {
                "start": start, "windows": {}, "units": {},
                "entity": [message.originator.kind, message.originator.name],
                "profile": message.metadata.get("deviceType", "default"),
            }  # fmt: skip
            self._wake_after(step, name, start)
            step.put(f"{name}\0done", start - self._width_ns)
        step.put(name, self._added(held, message, time_ns))
        return outs

    def _added(self, held: Any, message: Message, time_ns: int) -> Any:
        windows = dict(held["windows"])
        for key, value in message.data.items():
            found = number(value) if not self._keys or key in self._keys else None
            if found is None:
                continue
            window = Window.decode(windows[key]) if key in windows else Window()
            window.add(time_ns, float(found))
            windows[key] = window.encode()
        return {**held, "windows": windows, "units": {**held["units"], **message.units}}

    def _wake_after(self, step: Step, name: str, start: int) -> None:
        """Have the window closed by the clock: by then its device may have fallen silent."""
        left_s = (start + self._width_ns - step.now.wall_ns) / SECOND_NS
        width_s = self._width_ns / SECOND_NS
        step.wake(name, min(max(left_s, 0), width_s) + LATENESS_S)

    def wake(self, name: str, step: Step) -> Outs:
        held = step.get(name)
        if held is None:
            return ()
        step.put(name, None)
        step.put(f"{name}\0done", held["start"])
        return self._closed(held, Originator(*held["entity"]))

    def _closed(self, held: Any, entity: Originator) -> list[Out]:
        data: dict[str, Any] = {}
        units: dict[str, str] = {}
        for key, raw in held["windows"].items():
            for function, value in self._results(Window.decode(raw)).items():
                name = key if len(self._functions) == 1 else f"{key}_{function.lower()}"
                data[name] = value
                if function != "COUNT" and key in held["units"]:
                    units[name] = held["units"][key]
        if not data:
            return []
        message = device_message(
            POST_TELEMETRY, entity.name, data, held["start"], profile=held["profile"], units=units
        )
        return [Out("Success", message.changed(originator=entity))]

    def _results(self, window: Window) -> dict[str, float | int]:
        lowest, highest, first, last = window.min, window.max, window.first, window.last
        if lowest is None or highest is None or first is None or last is None:
            return {}
        all_: dict[str, float | int | None] = {
            "MIN": lowest[0], "MAX": highest[0], "AVG": window.mean, "SUM": window.sum,
            "COUNT": window.count, "FIRST": first[0], "LAST": last[0],
        }  # fmt: skip
        return {one: value for one in self._functions if (value := all_[one]) is not None}


NODES = (Deadband, WindowNode)
