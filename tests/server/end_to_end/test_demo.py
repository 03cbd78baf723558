"""`make demo`'s last step, run as it stands."""

from tests.helpers.servers import ROOT, run_script


def test_the_demo_names_every_sample_image(demo_repository):
    done = run_script("demo/run.py", demo_repository)
    assert done.returncode == 0, done.stderr
    count = len(list((ROOT / "scripts" / "demo" / "images").iterdir())) - 1
    assert f"{count} of {count} images are classified as expected" in done.stdout
    assert done.stdout.rstrip().endswith("Triton stopped")
