"""The benchmark of decoding threads: its options and its table."""

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from tritonclip_server.benchmarks import decoding
from tritonclip_server.benchmarks.decoding import Decoders, Rate


@pytest.mark.parametrize("option", [("--decoders", "4"), ("--decoders", "0x2"), ("--sizes", "640x")])
def test_wrong_pair_is_rejected_before_anything_is_prepared(monkeypatch, option):
    monkeypatch.setattr(decoding, "photos", lambda count, size: pytest.fail("pictures were made"))
    done = CliRunner().invoke(decoding.main, option)
    assert done.exit_code == click.UsageError.exit_code
    assert "is not two numbers such as 2x1 or 640x480" in done.output


def test_table_has_medians_and_the_rate_of_a_core():
    rounds = [Rate(100.0, 3.0, 0.5, 250.0), Rate(300.0, 4.0, 1.0, 252.0), Rate(200.0, 9.0, 2.0, 251.0)]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(decoding.table({("640x480", Decoders(8, 2, "pillow")): rounds}))
    row = next(line for line in captured.get().splitlines() if "640x480" in line)
    assert row.replace("│", " ").split() == "640x480 pillow 8 x 2 200.0 4.00 1.00 200.0 251".split()
