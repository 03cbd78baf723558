"""The last step of `make demo`."""

from tests.helpers.servers import ROOT, run_script


def test_demo_classifies_every_sample_image_correctly(demo_repository):
    done = run_script("demo/run.py", demo_repository)
    assert done.returncode == 0, done.stderr
    count = len(list((ROOT / "scripts" / "demo" / "images").iterdir())) - 1
    assert f"{count} of {count} images are classified as expected" in done.stdout
    assert done.stdout.rstrip().endswith("Triton stopped")
