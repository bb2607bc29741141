"""A script of a node: evaluated here if it is one expression, else by the worker.   [sans-IO]"""

from collections.abc import Generator
from typing import Any, Final, Literal, Protocol

import msgspec

from edgesync.rules.node import NodeFailure, Now, ScriptAnswer, ScriptCall
from edgesync.rules.scripts.evaluate import Expression
from edgesync.rules.scripts.lexer import NotUnderstood
from edgesync.rules.scripts.values import ScriptError

Language = Literal["JS", "TBEL"]
MESSAGE: Final = ("msg", "metadata", "msgType")


class ScriptSource(msgspec.Struct, frozen=True):
    """A script that the worker is to compile: the body of a function with these arguments."""

    id: str
    body: str
    names: tuple[str, ...]
    language: Language


class Scripts(Protocol):
    """Collects the scripts that the worker is to run."""

    def foreign(self, source: ScriptSource, problem: str) -> None:
        """Take a script that is no single expression; `problem` says what in it is not.

        Raises ValueError with a sentence for people when it cannot be run at all.
        """


class Script:
    """See the module. `names` are those of the arguments.

    Raises ValueError with a sentence for people.
    """

    def __init__(
        self, scripts: Scripts, id_: str, body: str, language: Language,
        names: tuple[str, ...] = MESSAGE,
    ) -> None:  # fmt: skip
        self._id = id_
        self._expression: Expression | None = None
        try:
            self._expression = Expression(body, names, is_tbel=language == "TBEL")
        except NotUnderstood as problem:
            scripts.foreign(ScriptSource(id_, body, names, language), str(problem))

    def run(self, arguments: tuple[Any, ...], now: Now) -> Generator[ScriptCall, ScriptAnswer, Any]:
        """Return what the script returns; raises NodeFailure with what it would have thrown."""
        if self._expression is not None:
            try:
                return self._expression(arguments, now.wall_ns // 1_000_000)
            except ScriptError as error:
                raise NodeFailure(str(error)) from error
        answer = yield ScriptCall(self._id, arguments)
        if answer.problem:
            raise NodeFailure(answer.problem)
        return answer.value
