"""Profiles: what they choose on a machine, and how `prepare` applies them."""

import json

import pytest
from click.testing import CliRunner

from tests.helpers.servers import ROOT
from tritonclip_server.repository import prepare as command
from tritonclip_server.repository.configs import read_configuration
from tritonclip_server.repository.prepare import main
from tritonclip_server.repository.profiles import (
    AUTO,
    GPU,
    PROFILES,
    Machine,
    profile_of,
    profile_parameters,
    this_machine,
)
from tritonclip_server.repository.writer import check_parameters

GPU_MACHINE = Machine(cores=16, gpus=2)
CPU_MACHINE = Machine(cores=2, gpus=0)


@pytest.fixture
def on_gpu_machine(monkeypatch):
    monkeypatch.setattr(command, "this_machine", lambda: GPU_MACHINE)


def prepare(source, output, *arguments):
    done = CliRunner().invoke(main, [str(source), "--output", str(output), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def config(repository, model):
    return read_configuration((repository / model / "config.pbtxt").read_text(encoding="utf-8"))


def identity(repository):
    manifest = (repository / "clip_zero_shot" / "1" / "manifest.json").read_text(encoding="utf-8")
    return json.loads(manifest)["identity"]


def test_auto_chooses_gpu_only_on_a_machine_with_gpus():
    assert profile_of(AUTO, GPU_MACHINE) == GPU
    assert profile_of(AUTO, CPU_MACHINE) != GPU


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != AUTO])
def test_named_profile_is_kept_on_every_machine(profile):
    assert {profile_of(profile, machine) for machine in (GPU_MACHINE, CPU_MACHINE)} == {profile}


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != AUTO])
@pytest.mark.parametrize("machine", [GPU_MACHINE, CPU_MACHINE, Machine(1, 0), Machine(256, 8)], ids=str)
def test_parameters_of_every_profile_exist(profile, machine):
    check_parameters(profile_parameters(profile, machine))


@pytest.mark.parametrize(("cores", "instances"), [(1, "1"), (3, "1"), (16, "8"), (128, "16")])
def test_gpu_profile_has_a_decoding_process_for_two_cores_up_to_a_limit(cores, instances):
    chosen = profile_parameters(GPU, Machine(cores, gpus=1))
    assert chosen["image_preprocess"] == {"instances": instances}


def test_gpus_are_counted_by_their_devices(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert this_machine(tmp_path).gpus == 2


def test_prepare_applies_the_profile_and_leaves_threads_to_the_load(
    tmp_path, small_checkpoint, on_gpu_machine
):
    output = prepare(small_checkpoint, tmp_path / "models")
    assert (
        "profile gpu for 2 GPUs and 16 cores: image_preprocess.instances=8, vision_encoder.instances=2, "
        "vision_encoder.max_bucket=256 (a GPU waits for decoding on the CPU)\n"
    ) in output
    preprocess, vision = (
        config(tmp_path / "models", name) for name in ("image_preprocess", "vision_encoder")
    )
    assert (preprocess.instance_group[0].count, vision.instance_group[0].count) == (8, 2)
    assert vision.parameters["max_bucket"].string_value == "256"
    assert preprocess.parameters["threads"].string_value == vision.parameters["threads"].string_value == "0"


def test_set_wins_over_the_profile(tmp_path, small_checkpoint, on_gpu_machine):
    output = prepare(small_checkpoint, tmp_path / "models", "--set", "image_preprocess.instances=3")
    assert "image_preprocess.instances=3, vision_encoder.instances=2" in output
    assert config(tmp_path / "models", "image_preprocess").instance_group[0].count == 3


def test_profile_changes_neither_identity_nor_a_second_run(tmp_path, small_checkpoint, prepared_once):
    arguments = (small_checkpoint, tmp_path / "models", "--profile", "gpu")
    assert "is up to date" not in prepare(*arguments)
    assert identity(tmp_path / "models") == identity(prepared_once)
    assert "is up to date" in prepare(*arguments)
    assert "is up to date" not in prepare(small_checkpoint, tmp_path / "models")


def test_images_name_a_profile_because_another_machine_builds_them():
    gpu, cpu = (
        (ROOT / "docker" / name).read_text(encoding="utf-8") for name in ("Dockerfile", "Dockerfile.cpu")
    )
    assert '--profile gpu --set "image_preprocess.instances=$DECODERS"' in gpu
    assert "--profile latency" in cpu
