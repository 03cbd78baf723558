"""The version of the command `tritonclip-server`, and the help of its options."""

from click.testing import CliRunner

from tritonclip_server import __version__
from tritonclip_server._cli import main


def test_version_is_that_of_the_package():
    assert CliRunner().invoke(main, ["--version"]).output == f"tritonclip-server, version {__version__}\n"


def test_checkpoint_options_of_serve_and_prepare_have_the_same_help():
    helps = [CliRunner().invoke(main, [command, "--help"]).output for command in ("serve", "prepare")]
    parts = [
        text[text.index("--revision") : text.index(last)]
        for text, last in zip(helps, ("--host", "--random"), strict=True)
    ]
    assert parts[0] == parts[1]
    assert all(option in parts[0] for option in ("--precision", "--profile", "--set", "--labels"))
