"""What `edgesync` and `hubd` have in common: settings, exit codes, one line instead of a trace."""

import difflib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from edgesync.errors import ConfigError, EdgesyncError, StoreLocked, sentence_of

# sysexits.h: a service manager and a script can tell these apart.
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78
CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (ConfigError, EX_CONFIG),
    (StoreLocked, EX_TEMPFAIL),
    (Exception, EX_UNAVAILABLE),
)
# What an operator can mend; everything else is a bug and keeps its traceback.
MENDABLE: Final[tuple[type[Exception], ...]] = (EdgesyncError, OSError)
SYSTEM_FOLDER: Final = Path("/etc/edgesync")
AS_JSON: Final = "edgesync.as_json"
# Attributes of an error that a program may want apart from the sentence.
FACTS: Final = ("file", "field", "problem", "remedy", "path", "pid", "used_bytes", "limit_bytes")


def _note_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    context.find_root().meta[AS_JSON] = value
    return value


as_json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_note_json, is_eager=True,
    help="Answer in JSON, errors too.",
)  # fmt: skip


def config_option(name: str, variable: str, text: str) -> Callable[[Any], Any]:
    """Return the option --config: beside the caller, by `variable`, or of the whole machine."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=functools.partial(find_config, name),
        show_default=f"${variable}, ./{name}, or {SYSTEM_FOLDER / name}",
        envvar=variable,
        help=text,
    )


def find_config(name: str) -> Path:
    """Return `name` in this folder, or in /etc/edgesync when only that is there."""
    here, system = Path(name), SYSTEM_FOLDER / name
    return system if not here.exists() and os.access(system, os.F_OK) else here


class Program(click.Group):
    """Turns errors an operator can mend into one line each, and an exit code."""

    mendable: tuple[type[Exception], ...] = MENDABLE
    codes: tuple[tuple[type[BaseException], int], ...] = CODES

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except click.ClickException as refused:
            if not context.meta.get(AS_JSON):
                raise
            _print_json(refused.format_message(), refused.exit_code)
        except (Exception, BaseExceptionGroup) as raised:
            if isinstance(raised, (click.exceptions.Exit, click.Abort)):
                raise
            errors = list(_leaves(raised))
            if not all(isinstance(error, self.mendable) for error in errors):
                raise
            self._exit(context, errors)

    def _exit(self, context: click.Context, errors: list[BaseException]) -> NoReturn:
        code = next(code for kind, code in self.codes if isinstance(errors[0], kind))
        if context.meta.get(AS_JSON):
            facts = {name: getattr(errors[0], name, None) for name in FACTS}
            known = {name: value for name, value in facts.items() if _is_plain(value)}
            _print_json("; ".join(map(sentence_of, errors)), code, **known)
        for error in errors:
            click.echo(f"{context.find_root().info_name}: {sentence_of(error)}", err=True)
        sys.exit(code)


class Lazy(Program):
    """Imports the module of a command when the command is called: `load` says which it is."""

    # command -> its module, where it goes by the same name, and its help in one line
    load: Mapping[str, tuple[str, str]]

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.load)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.load:
            return None
        found = getattr(importlib.import_module(self.load[name][0]), name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in self.load else difflib.get_close_matches(args[0], self.load, n=1)
        if near and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.load.items()])


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | Path) and value != ""


def _print_json(text: str, code: int, **facts: object) -> NoReturn:
    """Print an error where the answer would have been: who reads JSON reads it there."""
    click.echo(json.dumps({"error": text, "exit_code": code, **facts}, indent=2, default=str))
    sys.exit(code)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
