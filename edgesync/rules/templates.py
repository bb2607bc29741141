"""Texts with `${metadata}` and `$[message]` in them.   [sans-IO]"""

import json
import re
from typing import Any, Final

from edgesync.rules.message import Message

_PLACE: Final = re.compile(r"\$\{([^{}]{1,255})\}|\$\[([^\[\]]{1,255})\]")
# What a short text may grow to when a long value is put in.
TEXT_CHARS_MAX: Final = 64 * 1024


def fill(template: str, message: Message) -> str:
    """Return `template` with what the message says put in; what it does not say stays as it is."""
    if "$" not in template:
        return template

    def found(match: re.Match[str]) -> str:
        if match[1] is not None:
            return message.metadata.get(match[1].strip(), match[0])
        value = lookup(message.data, match[2].strip())
        return match[0] if value is None else as_text(value)

    return _PLACE.sub(found, template)[:TEXT_CHARS_MAX]


def lookup(data: Any, path: str) -> Any:
    """Return a member by a path like `values.temp` or `items.0`; None if there is none."""
    if isinstance(data, dict) and path in data:
        return data[path]
    for part in path.split("."):
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and len(part) < 7:
            data = data[int(part)] if int(part) < len(data) else None
        else:
            return None
    return data


def as_text(value: Any) -> str:
    """Return a value as a text in metadata has it: JSON, but for texts."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
