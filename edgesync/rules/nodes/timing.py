"""Nodes that act by the clock: generator, delay, one of several.   [sans-IO]"""

from typing import Any, Final, Literal

import msgspec

from edgesync.rules.message import Message, Originator
from edgesync.rules.node import Node, NodeConfig, NodeFailure, Out, Outs, Place, Step, success
from edgesync.rules.nodes.scripted import ScriptConfig, chosen_script
from edgesync.rules.nodes.transforms import messages_of
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import fill
from edgesync.rules.values import number

PERIOD_S_MAX: Final = 31 * 86_400
# Messages that a node may hold back, whatever its configuration says (I7).
HELD_MAX: Final = 10_000
TICK: Final = "tick"


def kept(message: Message) -> Any:
    return msgspec.to_builtins(message)


def as_message(stored: Any) -> Message:
    return msgspec.convert(stored, Message)


def period(seconds: float) -> float:
    if not 0 < seconds <= PERIOD_S_MAX:
        raise ValueError(
            f"a period of {seconds} s; more than 0 and at most {PERIOD_S_MAX} are possible"
        )
    return seconds


class GeneratorConfig(ScriptConfig, frozen=True, kw_only=True):
    msg_count: int = 0
    period_in_seconds: float = 1.0
    originator_type: str | None = None
    originator_id: str | None = None


class Generator(Node):
    """Makes a message each period: as many as `msgCount` says, 0 for as long as it runs."""

    node_type = "debug.TbMsgGeneratorNode"
    config = GeneratorConfig

    def __init__(self, place: Place, config: GeneratorConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._period_s = period(config.period_in_seconds)
        self._count = config.msg_count
        self._script = chosen_script(
            place, scripts, config.script_lang, config.js_script, config.tbel_script,
            names=("prevMsg", "prevMetadata", "prevMsgType"),
        )  # fmt: skip

    def start(self, step: Step) -> Outs:
        step.wake(TICK, self._period_s)
        return ()

    def process(self, message: Message, step: Step) -> Outs:
        return success(message)

    def wake(self, name: str, step: Step) -> Outs:
        made, before = step.get(TICK) or (0, None)
        if self._count and made >= self._count:
            return ()
        step.wake(TICK, self._period_s)
        previous = self._first(step) if before is None else as_message(before)
        arguments = (previous.data, dict(previous.metadata), previous.type)
        found = yield from self._script.run(arguments, step.now)
        messages = [one.changed(time_ns=step.now.wall_ns) for one in messages_of(found, previous)]
        step.put(TICK, (made + 1, kept(messages[-1]) if messages else before))
        return [Out("Success", one) for one in messages]

    def _first(self, step: Step) -> Message:
        edge: Originator = step.edge
        return Message(type="", originator=edge, data={}, metadata={}, time_ns=step.now.wall_ns)


class DelayConfig(NodeConfig, frozen=True, kw_only=True):
    period_in_seconds: float = 60.0
    max_pending_msgs: int = 1000
    period_in_seconds_pattern: str = ""
    use_metadata_period_in_seconds_patterns: bool = False


class Delay(Node):
    """Lets a message go on later. What is held back outlives a restart."""

    node_type = "delay.TbMsgDelayNode"
    config = DelayConfig

    def __init__(self, place: Place, config: DelayConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._held_max = max(1, min(config.max_pending_msgs, HELD_MAX))
        if not config.use_metadata_period_in_seconds_patterns:
            period(config.period_in_seconds)

    def process(self, message: Message, step: Step) -> Outs:
        held = step.names()
        if len(held) >= self._held_max:
            raise NodeFailure(f"{len(held)} messages are held back already; that is the most")
        name = str(max((int(one) for one in held), default=0) + 1)
        step.put(name, kept(message))
        step.wake(name, self._delay_s(message))
        return ()

    def _delay_s(self, message: Message) -> float:
        config = self._config
        if not config.use_metadata_period_in_seconds_patterns:
            return config.period_in_seconds
        text = fill(config.period_in_seconds_pattern, message)
        found = number(text)
        try:
            return period(-1 if found is None else found)
        except ValueError as error:
            raise NodeFailure(f"periodInSecondsPattern gives {text[:40]!r}: {error}") from error

    def wake(self, name: str, step: Step) -> Outs:
        stored = step.get(name)
        step.put(name, None)
        return () if stored is None else success(as_message(stored))


class DeduplicationConfig(NodeConfig, frozen=True, kw_only=True):
    interval: int
    strategy: Literal["FIRST", "LAST", "ALL"] = "FIRST"
    out_msg_type: str | None = None
    max_pending_msgs: int = 100


class Deduplication(Node):
    """Of the messages of an entity in an interval the first, the last, or all as one."""

    node_type = "deduplication.TbMsgDeduplicationNode"
    config = DeduplicationConfig

    def __init__(self, place: Place, config: DeduplicationConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._interval_s = period(config.interval)
        self._held_max = max(1, min(config.max_pending_msgs, 1000))
        if config.strategy == "ALL" and not config.out_msg_type:
            raise ValueError("outMsgType is empty; ALL needs the type of the message it makes")

    def process(self, message: Message, step: Step) -> Outs:
        name = str(message.originator)
        held = list(step.get(name) or ())
        if not held:
            step.wake(name, self._interval_s)
        if self._config.strategy == "ALL" and len(held) >= self._held_max:
            raise NodeFailure(f"{len(held)} messages are held back already; that is the most")
        if self._config.strategy != "FIRST" or not held:
            fresh = kept(message)
            step.put(name, [*held, fresh] if self._config.strategy == "ALL" else [fresh])
        return ()

    def wake(self, name: str, step: Step) -> Outs:
        held = [as_message(one) for one in step.get(name) or ()]
        step.put(name, None)
        if not held:
            return ()
        if self._config.strategy != "ALL":
            return success(held[-1])
        data = [{"msg": one.data, "metadata": dict(one.metadata)} for one in held]
        return success(held[-1].changed(type=self._config.out_msg_type or "", data=data))


NODES = (Generator, Delay, Deduplication)
