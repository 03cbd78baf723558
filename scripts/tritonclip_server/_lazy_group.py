"""A click group whose subcommands are imported only when they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import click


class Subcommand(NamedTuple):
    """A subcommand that is imported when it is called.

    Attributes:
        module: Module of the package that holds its click command as `main`.
        help: One line for the list of subcommands.
        install: Arguments of `pip install` that bring the packages it imports; empty if the base
            installation has them all.
    """

    module: str
    help: str
    install: str = ""


class LazyGroup(click.Group):
    """A group of commands that are listed by module.

    Args:
        subcommands: The subcommands by name.
    """

    def __init__(self, subcommands: dict[str, Subcommand], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand, or return None if there is no such name."""
        if cmd_name not in self._subcommands:
            return None
        with self._missing_package_named(cmd_name):
            module = import_module(f"tritonclip_server.{self._subcommands[cmd_name].module}")
        command: click.Command = module.main
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand that the arguments name."""
        with self._missing_package_named(lambda: ctx.invoked_subcommand):
            return super().invoke(ctx)

    @contextmanager
    def _missing_package_named(self, subcommand: str | Callable[[], str | None]) -> Iterator[None]:
        """Turn an import that fails into one line with the `pip` command that installs the package."""
        try:
            yield
        except ModuleNotFoundError as error:
            name = subcommand if isinstance(subcommand, str) else subcommand()
            entry = self._subcommands.get(name or "")
            if entry is None or not entry.install or (error.name or "").startswith("tritonclip_server"):
                raise
            text = f"the package {error.name} is missing; install it with: pip install {entry.install}"
            raise click.ClickException(text) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._subcommands.items()])
