"""The last step of `make demo`."""

import json

from click.testing import CliRunner

from tests.helpers.servers import ROOT
from tritonclip_server.demo.tour import main


def test_demo_classifies_every_sample_image_correctly(servers, demo_repository):
    servers.command("the demo starts its server itself")
    done = CliRunner().invoke(main, [str(demo_repository)])
    assert done.exit_code == 0, done.output
    labels = (ROOT / "scripts" / "demo" / "images" / "labels.json").read_text(encoding="utf-8")
    count = len(json.loads(labels)["expected"])
    assert count == 9
    assert f"{count} of {count} images are classified as expected" in done.stdout
    assert done.stdout.rstrip().endswith("Triton stopped")
