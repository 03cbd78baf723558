"""`make demo`'s last step, run as it stands."""

import subprocess
import sys

from conftest import ROOT


def test_the_demo_names_every_sample_image(demo_repository):
    done = subprocess.run(
        [sys.executable, "scripts/demo/run.py", str(demo_repository)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count = len(list((ROOT / "scripts" / "demo" / "images").iterdir())) - 1
    assert f"{count} of {count} images are what their names say" in done.stdout
    assert done.stdout.rstrip().endswith("Triton stopped")
