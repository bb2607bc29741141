"""What `edgesync` and `hubd` have in common: exit codes, and one line instead of a trace."""

import sys
from collections.abc import Iterator
from typing import Final, NoReturn

import click

from edgesync.errors import ConfigError, EdgesyncError, StoreLocked

# sysexits.h: a service manager and a script can tell these apart.
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78
CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ConfigError, EX_CONFIG),
    (StoreLocked, EX_TEMPFAIL),
    (Exception, EX_UNAVAILABLE),
)
# What an operator can mend; everything else is a bug and keeps its traceback.
MENDABLE: Final[tuple[type[Exception], ...]] = (EdgesyncError, OSError)


class Program(click.Group):
    """Turns errors an operator can mend into one line each, and an exit code."""

    mendable: tuple[type[Exception], ...] = MENDABLE

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (Exception, BaseExceptionGroup) as raised:
            errors = list(_leaves(raised))
            if not all(isinstance(error, self.mendable) for error in errors):
                raise
            self._exit(context, errors)

    def _exit(self, context: click.Context, errors: list[BaseException]) -> NoReturn:
        for error in errors:
            click.echo(f"{context.find_root().info_name}: {error}", err=True)
        sys.exit(next(code for kind, code in CODES if isinstance(errors[0], kind)))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
