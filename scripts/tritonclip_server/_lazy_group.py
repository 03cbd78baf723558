"""A click group whose subcommands are imported only when they are called."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click


class Subcommand(NamedTuple):
    """A subcommand that is imported when it is called.

    Attributes:
        module: Module of the package that holds its click command as `main`.
        help: One line for the list of subcommands.
    """

    module: str
    help: str


class LazyGroup(click.Group):
    """A group whose subcommands are named by module.

    Args:
        subcommands: The subcommands by name.
    """

    def __init__(self, subcommands: dict[str, Subcommand], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self._subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None if there is no such name."""
        if cmd_name not in self._subcommands:
            return None
        module = import_module(f"tritonclip_server.{self._subcommands[cmd_name].module}")
        command: click.Command = module.main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._subcommands.items()])
