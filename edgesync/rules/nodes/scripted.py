"""Base of nodes with a script.   [sans-IO]"""

from collections.abc import Generator
from typing import Any, Literal

from edgesync.rules.message import Message
from edgesync.rules.model import SCRIPT_CHARS_MAX
from edgesync.rules.node import Node, NodeConfig, Place, ScriptAnswer, ScriptCall, Step
from edgesync.rules.scripts.script import MESSAGE, Language, Script, Scripts

Calls = Generator[ScriptCall, ScriptAnswer, Any]


class ScriptConfig(NodeConfig, frozen=True, kw_only=True):
    """Old exports have `jsScript` alone."""

    script_lang: Literal["JS", "TBEL"] | None = None
    js_script: str = ""
    tbel_script: str = ""


class ScriptNode(Node):
    """A node that asks a script about each message."""

    config = ScriptConfig

    def __init__(self, place: Place, config: ScriptConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self.script = chosen_script(
            place, scripts, config.script_lang, config.js_script, config.tbel_script
        )

    def ask(self, message: Message, step: Step) -> Calls:
        """Return what the script makes of a message; raises NodeFailure."""
        arguments = (message.data, dict(message.metadata), message.type)
        return (yield from self.script.run(arguments, step.now))


def chosen_script(
    place: Place, scripts: Scripts, named: Language | None, js: str, tbel: str,
    names: tuple[str, ...] = MESSAGE,
) -> Script:  # fmt: skip
    """Return the script of the language that a node names; raises ValueError."""
    language: Language = named or "JS"
    body = tbel if language == "TBEL" else js
    if not body.strip():
        field = "tbelScript" if language == "TBEL" else "jsScript"
        raise ValueError(f"has no script: {field} is empty")
    if len(body) > SCRIPT_CHARS_MAX:
        raise ValueError(f"has a script of {len(body)} characters; {SCRIPT_CHARS_MAX} are the most")
    return Script(scripts, place.key, body, language, names)
