"""`edgesync completion`: for the shells click knows."""

import click
from click.shell_completion import get_completion_class


@click.command(epilog='Example: eval "$(edgesync completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--program", default="edgesync", type=click.Choice(["edgesync", "hubd"]))
def completion(shell: str, program: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, program, f"_{program.upper()}_COMPLETE").source())
