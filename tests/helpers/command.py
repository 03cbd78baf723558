"""The command `tritonclip` in this process, which saves the start of an interpreter."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

from tritonclip._cli.main import main


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: object, stdin: str = "") -> Done:
    """Run the command with the given arguments and standard input, and return its exit code and output."""
    with CliRunner().isolation(stdin) as (out, err, _):
        code = main([str(argument) for argument in arguments])
    return Done(code, out.getvalue().decode(), err.getvalue().decode())
