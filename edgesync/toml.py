"""Settings from a TOML file into a frozen struct, with errors that name the field and the remedy.

Environment variables override single fields: PREFIX_SECTION__KEY, e.g. EDGESYNC_HUB__ENDPOINT.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edgesync import units
from edgesync.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

# A settings file is written by people; a larger one is something else.
FILE_BYTES_MAX: Final = 4 << 20

_AT = re.compile(r"^(?P<problem>.*) - at `\$(?P<path>.*)`$", re.S)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


def read(path: Path) -> dict[str, Any]:
    """Return the table in the file `path`; raises ConfigError."""
    try:
        raw = path.read_bytes()[: FILE_BYTES_MAX + 1]
    except OSError as error:
        raise ConfigError(
            file=str(path),
            field="(file)",
            problem=error.strerror or str(error),
            remedy="name another file with --config, or make one with `init`",
        ) from error
    return parse(raw, file=str(path))


def parse(raw: bytes, *, file: str) -> dict[str, Any]:
    """Return the table in the bytes of a file; raises ConfigError."""
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(file=file, field="(file)", problem=f"over {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(file=file, field="(file)", problem=f"is not TOML: {error}") from error


def convert(
    table: Mapping[str, Any], kind: type[T], *, file: str, names: Mapping[str, str] | None = None
) -> T:
    """Return `table` as `kind`, with durations and sizes as text; raises ConfigError.

    names   what fields are called for whoever wrote the table, where that differs
    """
    try:
        return msgspec.convert(table, kind, dec_hook=units.dec_hook)
    except (msgspec.ValidationError, ValueError) as error:
        found = explained(str(error), table, kind, file)
        raise renamed(found, names or {}) from error


def renamed(error: ConfigError, names: Mapping[str, str]) -> ConfigError:
    """Tell the same of the field under the name it was written with."""
    return ConfigError(
        file=error.file,
        field=names.get(error.field, error.field),
        problem=error.problem,
        remedy=error.remedy,
    )


def override(table: dict[str, Any], environment: Mapping[str, str], prefix: str) -> None:
    """Put PREFIX_SECTION__KEY=value over the file's value; numbers as TOML has them."""
    for name, text in sorted(environment.items()):
        if not name.startswith(f"{prefix}_") or "__" not in name:
            continue
        *sections, key = name.removeprefix(f"{prefix}_").lower().split("__")
        place: dict[str, Any] = table
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                break  # no table: reading it into the struct says so
            place = inner
        else:
            place[key] = _literal(text)


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def explained(
    text: str, table: Mapping[str, Any], kind: type[msgspec.Struct], file: str
) -> ConfigError:
    """Turn a validation error into the field's path, the problem and what would be right."""
    match = _AT.match(text)
    problem, path = (match["problem"], match["path"].lstrip(".")) if match else (text, "")
    if unknown := _UNKNOWN.search(problem):
        name = unknown["name"]
        allowed = _fields_at(kind, path)
        near = difflib.get_close_matches(name, allowed, n=1)
        guess = f"did you mean `{near[0]}`? " if near else ""
        field = f"{path}.{name}".lstrip(".")
        return ConfigError(
            file=file,
            field=field,
            problem="is not a known key",
            remedy=f"{guess}allowed here: {', '.join(sorted(allowed))}",
        )
    if missing := _MISSING.search(problem):
        field = f"{path}.{missing['name']}".lstrip(".")
        return ConfigError(file=file, field=field, problem="is missing", remedy="add it")
    return ConfigError(file=file, field=path or "(file)", problem=problem)


def _fields_at(kind: type[msgspec.Struct], path: str) -> list[str]:
    """Names of the keys allowed at a path like `modbus[0].groups`."""
    here: Any = kind
    for part in filter(None, re.split(r"\.|\[[^\]]*\]", path)):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(here)}
        here = _struct_in(fields.get(part))
        if here is None:
            return []
    return [field.encode_name for field in msgspec.structs.fields(here)]


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _struct_in(inner)) is not None:
            return found
    return None


def environment() -> Mapping[str, str]:
    return os.environ
