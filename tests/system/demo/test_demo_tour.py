"""The last step of `make demo`."""

import json

from click.testing import CliRunner

from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip_server.demo.tour import main


def test_demo_prepares_its_repository_and_classifies_every_sample_image_correctly(servers, tmp_path):
    servers.command("the demo starts its server itself")
    repository = tmp_path / "models"
    done = CliRunner().invoke(main, [str(repository), "--checkpoint", str(DEMO_CHECKPOINT)])
    assert done.exit_code == 0, done.output
    labels = (ROOT / "scripts" / "demo" / "images" / "labels.json").read_text(encoding="utf-8")
    count = len(json.loads(labels)["expected"])
    assert count == 9
    assert f"{repository}: version 1 holds {DEMO_CHECKPOINT}" in done.stdout
    assert f"{count} of {count} images are classified as expected" in done.stdout
    assert done.stdout.rstrip().endswith("Triton stopped")
