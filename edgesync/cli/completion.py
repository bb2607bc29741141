"""`edgesync completion` and `hubd completion`: for the shells click knows."""

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    epilog='Example: eval "$(edgesync completion bash)" or eval "$(hubd completion bash)"'
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.option(
    "--program", type=click.Choice(["edgesync", "hubd"]), help="The one that is asked, else."
)
def completion(shell: str, program: str | None) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    asked = click.get_current_context().find_root()
    program = program or ("hubd" if str(asked.info_name).endswith("hubd") else "edgesync")
    click.echo(kind(asked.command, {}, program, f"_{program.upper()}_COMPLETE").source())
