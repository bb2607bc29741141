"""Settings from a TOML file into a frozen struct, with errors that name the field and the remedy.

Environment variables override single fields: PREFIX_SECTION__KEY, e.g. EDGESYNC_HUB__ENDPOINT.
"""

import copy
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edgesync import units
from edgesync.errors import ConfigError, gathered
from edgesync.nearest import guess

T = TypeVar("T", bound=msgspec.Struct)

# A settings file is written by people; a larger one is something else.
FILE_BYTES_MAX: Final = 4 << 20
MISSING: Final = "name another file with --config, or make one with `init`"

BYTE_ORDER_MARKS: Final = {
    b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
# Mistakes told at once: who made more has another kind of file in hand.
MISTAKES_MAX: Final = 20

_AT = re.compile(r"^(?P<problem>.*) - at `\$(?P<path>.*)`$", re.S)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


def read(path: Path, remedy: str = MISSING) -> dict[str, Any]:
    """Return the table in the file `path`; raises ConfigError, with `remedy` if it is not there."""
    try:
        raw = path.read_bytes()[: FILE_BYTES_MAX + 1]
    except OSError as error:
        raise ConfigError(
            file=str(path),
            field="(file)",
            problem=error.strerror or str(error),
            remedy=remedy,
        ) from error
    return parse(raw, file=str(path))


def parse(raw: bytes, *, file: str) -> dict[str, Any]:
    """Return the table in the bytes of a file; raises ConfigError."""
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(file=file, field="(file)", problem=f"over {FILE_BYTES_MAX} bytes")
    for mark, name in BYTE_ORDER_MARKS.items():
        if raw.startswith(mark):
            raise ConfigError(
                file=file, field="(file)", problem=f"begins with a byte order mark ({name})",
                remedy="save it as UTF-8 without one (some editors: without BOM)",
            )  # fmt: skip
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(file=file, field="(file)", problem=f"is not TOML: {error}") from error


def convert(
    table: Mapping[str, Any],
    kind: type[T],
    *,
    file: str,
    names: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> T:
    """Return `table` as `kind`, with durations and sizes as text; raises ConfigError.

    All mistakes are told at once (ConfigErrors): after each the field is left out, and the rest is
    read again.

    names      what fields are called for whoever wrote the table, where that differs
    variables  of the environment, by the fields that they have set (`override`)
    """
    try:
        return msgspec.convert(table, kind, dec_hook=units.dec_hook)
    except (msgspec.ValidationError, ValueError) as error:
        mistakes = _mistakes(table, kind, file)
        raise gathered([_as_said(one, names or {}, variables or {}) for one in mistakes]) from error


def _mistakes(table: Mapping[str, Any], kind: type[msgspec.Struct], file: str) -> list[ConfigError]:
    rest = copy.deepcopy(table)
    found: list[ConfigError] = []
    left_out: set[str] = set()
    for _ in range(2 * MISTAKES_MAX):
        try:
            msgspec.convert(rest, kind, dec_hook=units.dec_hook)
        except (msgspec.ValidationError, ValueError) as error:
            text = str(error)
            mistake = explained(text, rest, kind, file)
            if mistake.field not in left_out:
                found.append(mistake)
            left_out.add(mistake.field)
            if len(found) < MISTAKES_MAX and _leave_out(rest, kind, text):
                continue
        break
    return found


def _leave_out(table: Any, kind: type[msgspec.Struct], text: str) -> bool:
    """Remove what the error `text` is about from `table`, or fill it in; False if that fails."""
    match = _AT.match(text)
    problem, path = (match["problem"], match["path"]) if match else (text, "")
    steps = list(_steps(path, table, kind))
    if unknown := _UNKNOWN.search(problem):
        steps.append(unknown["name"])
    place = table
    try:
        if missing := _MISSING.search(problem):
            for step in steps:
                place = place[step]
            return _fill_in(table, kind, place, missing["name"], path)
        if not steps:
            return False
        for step in steps[:-1]:
            place = place[step]
        del place[steps[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _fill_in(
    table: Any, kind: type[msgspec.Struct], place: dict[str, Any], name: str, path: str
) -> bool:
    """Give a missing field some value that is taken, so that the rest can be looked at."""
    values: tuple[Any, ...] = ("x", 1, 0.0, [], {})
    for value in values:
        place[name] = value
        try:
            msgspec.convert(table, kind, dec_hook=units.dec_hook)
        except (msgspec.ValidationError, ValueError) as error:
            match = _AT.match(str(error))
            if match is not None and match["path"] == f"{path}.{name}":
                continue
        return True
    return False


def _as_said(
    error: ConfigError, names: Mapping[str, str], variables: Mapping[str, str]
) -> ConfigError:
    """Tell the same where it was said: in a file under its own names, or in the environment."""
    if (variable := variables.get(error.field)) is None:
        return renamed(error, names)
    return ConfigError(
        file="environment", field=variable, problem=error.problem, remedy=error.remedy
    )


def renamed(error: ConfigError, names: Mapping[str, str]) -> ConfigError:
    """Tell the same of the field under the name it was written with."""
    return ConfigError(
        file=error.file,
        field=names.get(error.field, error.field),
        problem=error.problem,
        remedy=error.remedy,
    )


def override(
    table: dict[str, Any], environment: Mapping[str, str], prefix: str
) -> Mapping[str, str]:
    """Put PREFIX_SECTION__KEY=value over the file's value; numbers as TOML has them.

    Returns the variable that set each field, such as `sync.heartbeat`, or made each section.
    """
    variables: dict[str, str] = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(f"{prefix}_") or "__" not in name:
            continue
        *sections, key = name.removeprefix(f"{prefix}_").lower().split("__")
        place: dict[str, Any] = table
        path = ""
        for section in sections:
            path = f"{path}.{section}".lstrip(".")
            if section not in place:
                variables[path] = name
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                break  # no table: reading it into the struct says so
            place = inner
        else:
            place[key] = _literal(text)
            variables[f"{path}.{key}"] = name
    return variables


def unread(environment: Mapping[str, str], prefix: str, kind: type[msgspec.Struct]) -> list[str]:
    """Return what is doubtful of the environment: a section's key after one underscore only."""
    sections = [field.encode_name for field in msgspec.structs.fields(kind)]
    fields = [(section, key) for section in sections for key in _fields_at(kind, [section])]
    return [
        f"{name} is not read: write {prefix}_{section.upper()}__{key.upper()}"
        for name in sorted(environment)
        for section, key in fields
        if name == f"{prefix}_{section}_{key}".upper()
    ]


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
    problem, path = (match["problem"], match["path"]) if match else (text, "")
    steps = list(_steps(path, table, kind))
    where = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
    owner = _owner(table, steps)
    of = f" in {owner!r}" if owner else ""
    if unknown := _UNKNOWN.search(problem):
        name = unknown["name"]
        allowed = _fields_at(kind, steps)
        return ConfigError(
            file=file, field=f"{where}.{name}".lstrip("."), problem=f"is not a known key{of}",
            remedy=f"{guess(name, allowed)}allowed here: {', '.join(sorted(allowed))}",
        )  # fmt: skip
    if missing := _MISSING.search(problem):
        field = f"{where}.{missing['name']}".lstrip(".")
        return ConfigError(file=file, field=field, problem=f"is missing{of}", remedy="add it")
    problem, remedy = _in_plain_words(
        problem, _value_at(table, steps), _type_at(kind, steps), where
    )
    return ConfigError(file=file, field=where or "(file)", problem=problem + of, remedy=remedy)


def _in_plain_words(problem: str, value: Any, wanted: Any, where: str) -> tuple[str, str]:
    """Return msgspec's problem, and a remedy, as somebody who writes TOML would say them."""
    choices = list(_choices(wanted))
    if "Invalid enum value" in problem and choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        more = ", or a list such as [0xFFFF]" if _has_list(wanted) else ""
        return f"{value!r} is not allowed", f"{guess(str(value), choices)}allowed: {listed}{more}"
    if "Expected `array`, got `object`" in problem and where and "." not in where:
        return problem, f"write [[{where}]]: there may be several"
    if "Expected `int`, got `str`" in problem and isinstance(value, str):
        try:
            number = int(value, 0)
        except ValueError:
            return problem, ""
        return problem, f"write {value} without quotes (it is {number})"
    is_name = where.endswith("name")
    if (
        is_name
        and "matching regex" in problem
        and isinstance(value, str)
        and re.search(r"[/\s]", value)
    ):
        kind = "tab" if "\t" in value else "slash" if "/" in value else "blank"
        return f"{value!r} has a {kind}", "names are without blanks, tabs and slashes"
    if "Expected `array`, got `str`" in problem:
        return problem, f'write a list: ["{value}"]'
    if "matching regex" in problem and (described := _description(wanted)):
        return "has the wrong form", f"write {described}"  # it may be a secret: not shown
    return problem, ""


def _description(wanted: Any) -> str:
    """Return what a type with a pattern says of itself, in words."""
    metas = [one for one in getattr(wanted, "__metadata__", ()) if isinstance(one, msgspec.Meta)]
    return next((one.description for one in metas if one.description), "")


def _choices(wanted: Any) -> Iterator[str]:
    if typing.get_origin(wanted) is typing.Literal:
        yield from (str(one) for one in typing.get_args(wanted))
        return
    for inner in typing.get_args(wanted):
        yield from _choices(inner)


def _has_list(wanted: Any) -> bool:
    inner = typing.get_args(wanted)
    return any(typing.get_origin(one) is tuple for one in inner)


def _steps(path: str, table: Any, kind: type[msgspec.Struct]) -> Iterator[str | int]:
    """Yield the keys and indices of a path like `.modbus[0].poll_groups[...].every`.

    msgspec does not say which key of a table it means (`[...]`): the first whose value is wrong.
    """
    here: Any = table
    wanted: Any = kind
    for part in re.findall(r"[^.\[\]]+|\[\d+\]|\[\.\.\.\]", path):
        step: str | int = int(part[1:-1]) if part[1:-1].isdigit() and part[0] == "[" else part
        wanted = _type_in(wanted, step)
        if step == "[...]" and isinstance(here, Mapping):
            step = next((key for key, one in here.items() if _is_wrong(one, wanted)), step)
        yield step
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None


def _is_wrong(value: Any, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted, dec_hook=units.dec_hook)
    except (msgspec.ValidationError, ValueError, TypeError):
        return True
    return False


def _value_at(table: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        try:
            table = table[step]
        except (KeyError, IndexError, TypeError):
            return None
    return table


def _owner(table: Any, steps: Sequence[str | int]) -> str:
    """Return the name of the innermost named thing on the way: a device, a point."""
    found = ""
    for step in steps:
        try:
            table = table[step]
        except (KeyError, IndexError, TypeError):
            break
        if isinstance(step, int) and isinstance(table, Mapping):
            name = table.get("name")
            found = name if isinstance(name, str) else found
    return found


def _type_at(kind: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        kind = _type_in(kind, step)
    return kind


def _type_in(kind: Any, step: str | int) -> Any:
    """Return the type of `step` inside `kind`, which may be a struct, a table or a list."""
    struct = _struct_in(kind)
    origin = typing.get_origin(kind)
    if origin is dict:
        return typing.get_args(kind)[1]
    if isinstance(step, int) or origin is tuple:
        return next(iter(typing.get_args(kind)), None) if origin is tuple else struct
    if struct is None:
        return None
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    return fields.get(step)


def _fields_at(kind: type[msgspec.Struct], steps: Sequence[str | int]) -> list[str]:
    """Names of the keys allowed at a path like `modbus[0].groups`."""
    struct = _struct_in(_type_at(kind, steps))
    return [] if struct is None else [f.encode_name for f in msgspec.structs.fields(struct)]


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _struct_in(inner)) is not None:
            return found
    return None


def environment() -> Mapping[str, str]:
    return os.environ
