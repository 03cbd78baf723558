"""The command `prepare` on valid and broken checkpoints."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from google.protobuf import text_format
from safetensors.torch import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from tritonclip_server.repository import checkpoint_files, writer
from tritonclip_server.repository.configs import (
    python_configuration,
    read_configuration,
    with_one_text_encoder,
)
from tritonclip_server.repository.prepare import main
from tritonclip_server.repository.writer import ENSEMBLES, MODELS, PYTHON_MODELS, STAGING_PREFIX


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def prepare(source, output, *arguments):
    done = run(source, "--output", output, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def read_config(output, model):
    return text_format.Parse((output / model / "config.pbtxt").read_text(), ModelConfig())


def tree(directory):
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def failure(tmp_path, source, *arguments):
    """Return the error line of a run that must fail and leave nothing behind."""
    output = tmp_path / "models"
    done = run(source, "--output", output, *arguments)
    assert done.exit_code == 1, done.output
    assert not output.exists()
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_each_model_has_its_files_and_a_manifest(prepared, small_checkpoint):
    assert sorted(path.name for path in prepared.iterdir()) == sorted(MODELS)
    for model in MODELS:
        version = prepared / model / "1"
        manifest = json.loads((version / "manifest.json").read_text())
        files = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
        present = {name for name in files if "__pycache__" not in name} - {"manifest.json"}
        assert set(manifest["files"]) == present
        for name, facts in manifest["files"].items():
            assert checkpoint_files.file_sha256(version / name) == facts["sha256"]
        assert manifest["checkpoint"]["source"] == str(small_checkpoint)
        assert ("model.py" in present) == (model in PYTHON_MODELS)
    whole = load_file(small_checkpoint / "model.safetensors")
    vision = load_file(prepared / "vision_encoder" / "1" / "vision.safetensors")
    text = load_file(prepared / "text_encoder" / "1" / "text.safetensors")
    assert vision.keys().isdisjoint(text)
    assert vision.keys() | text.keys() == whole.keys() - {"logit_scale"}
    assert all(torch.equal(whole[name], tensor) for name, tensor in (vision | text).items())


def test_pixel_model_publishes_the_image_settings(tmp_path, checkpoint_copy):
    change_file(
        checkpoint_copy, "preprocessor_config.json", size={"height": 224, "width": 224}, do_center_crop=False
    )
    change_file(checkpoint_copy, "preprocessor_config.json", resample=2)
    prepare(checkpoint_copy, tmp_path)
    served = (tmp_path / "image_preprocess" / "1" / "processor.json").read_text()
    published = read_config(tmp_path, "clip_pixel_embedding").parameters["processor"].string_value
    settings = '"crop":null,"image_processor":"torchvision","resample":2,"resize":[224,224]'
    assert published == '{"convert_rgb":true,' + settings + "}"
    assert json.loads(published) == {**json.loads(served), "image_processor": "torchvision"}


def test_second_run_reports_up_to_date_and_changes_nothing(prepared, small_checkpoint):
    before = tree(prepared)
    assert "is up to date" in prepare(small_checkpoint, prepared)
    assert tree(prepared) == before


def test_damaged_version_is_written_again(prepared, small_checkpoint):
    weights = prepared / "vision_encoder" / "1" / "vision.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    prepare(small_checkpoint, prepared)
    assert weights.read_bytes() == whole


def test_second_version_is_added_next_to_the_first(prepared, small_checkpoint):
    prepare(small_checkpoint, prepared, "--version", 2)
    assert sorted(path.name for path in (prepared / "vision_encoder").iterdir()) == ["1", "2", "config.pbtxt"]


def test_other_checkpoint_replaces_a_version_only_with_force(prepared, checkpoint_copy):
    before = tree(prepared)
    tensors = load_file(checkpoint_copy / "model.safetensors")
    tensors["logit_scale"] += 1
    save_file(tensors, checkpoint_copy / "model.safetensors")
    done = run(checkpoint_copy, "--output", prepared)
    assert done.exit_code == 1
    assert "--version" in done.stderr
    assert "--force" in done.stderr
    assert tree(prepared) == before
    prepare(checkpoint_copy, prepared, "--force")
    manifest = json.loads((prepared / "similarity" / "1" / "manifest.json").read_text())
    assert manifest["checkpoint"]["source"] == str(checkpoint_copy)


def test_options_change_parameters_sizes_and_priority_levels(tmp_path, small_checkpoint):
    settings = (
        "text_encoder.cache_bytes=1234",
        "image_preprocess.instances=4",
        "vision_encoder.max_batch_size=256",
        "vision_encoder.instances=4",
        "vision_encoder.priority_levels=2",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    prepare(small_checkpoint, tmp_path, "--precision", "float32", *options)
    text, preprocess, vision = (
        read_config(tmp_path, model) for model in ("text_encoder", "image_preprocess", "vision_encoder")
    )
    assert text.parameters["cache_bytes"].string_value == "1234"
    for encoder in (text, vision):
        assert encoder.parameters["precision"].string_value == "float32"
    instances = [config.instance_group[0].count for config in (text, preprocess, vision)]
    assert instances == [1, 4, 4]
    assert [config.max_batch_size for config in (text, preprocess, vision)] == [64, 64, 256]
    assert "instances" not in preprocess.parameters
    batching = vision.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    assert preprocess.dynamic_batching.priority_levels == 0


def placement(config):
    group = config.instance_group[0]
    return ModelInstanceGroup.Kind.Name(group.kind), list(group.gpus)


@pytest.mark.parametrize(
    ("settings", "vision", "text"),
    [
        ({}, ("KIND_AUTO", []), ("KIND_AUTO", [])),
        ({"vision_encoder": {"kind": "cpu"}}, ("KIND_CPU", []), ("KIND_AUTO", [])),
        ({"vision_encoder": {"gpus": "1"}}, ("KIND_GPU", [1]), ("KIND_AUTO", [])),
        ({"vision_encoder": {"gpus": "1,2"}}, ("KIND_GPU", [1, 2]), ("KIND_GPU", [1])),
        (
            {"vision_encoder": {"gpus": "0,1"}, "text_encoder": {"kind": "cpu"}},
            ("KIND_GPU", [0, 1]),
            ("KIND_CPU", []),
        ),
    ],
)
def test_encoders_are_placed_and_several_gpus_share_one_text_encoder(settings, vision, text):
    writer.check_parameters(settings)
    placed = with_one_text_encoder(settings)
    for model, expected in (("vision_encoder", vision), ("text_encoder", text)):
        config = read_configuration(python_configuration(model, placed.get(model, {}), [1]))
        assert placement(config) == expected


def test_gpus_of_an_encoder_on_the_cpu_are_rejected(tmp_path):
    settings = ("--set", "vision_encoder.kind=cpu", "--set", "vision_encoder.gpus=0")
    assert "vision_encoder.gpus needs vision_encoder.kind=gpu" in failure(tmp_path, "a/b", *settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("text_encoder.cash=1", "no parameter 'cash'; it has cache_bytes"),
        ("image_preprocess.jpeg_decoder=nvjpeg", "image_preprocess.jpeg_decoder was removed: JPEGs"),
        ("vision_encoder.kind=tpu", "vision_encoder.kind must be one of auto, cpu, gpu, not 'tpu'"),
        ("vision_encoder.gpus=first", "vision_encoder.gpus must be numbers of GPUs such as 0,1"),
        ("text_encoder.gpus=1,1", "text_encoder.gpus names a GPU twice: 1,1"),
        ("similarity.gpus=0", "similarity has no parameter 'gpus'"),
        ("image_preprocess.image_processor=pil", "must be torchvision or pillow, not 'pil'"),
        ("encoder.x=1", "no model 'encoder'"),
        ("vision_encoder.instances=0", "vision_encoder.instances must be a whole number of at least 1"),
        ("similarity.max_batch_size=many", "similarity.max_batch_size must be a whole number"),
        ("vision_encoder.priority_levels=2", "priority_levels needs vision_encoder.instances=4 or more"),
    ],
)
def test_unknown_parameters_are_rejected(tmp_path, setting, message):
    assert message in failure(tmp_path, "any/checkpoint", "--set", setting)


@pytest.mark.parametrize("kind", ["torchvision", "pillow"])
def test_clients_are_told_the_image_processor(tmp_path, small_checkpoint, kind):
    prepare(small_checkpoint, tmp_path / "models", "--set", f"image_preprocess.image_processor={kind}")
    processor = read_config(tmp_path / "models", "clip_pixel_embedding").parameters["processor"].string_value
    assert json.loads(processor)["image_processor"] == kind


def test_resampling_that_torch_lacks_needs_pillow(tmp_path, checkpoint_copy):
    change_file(checkpoint_copy, "preprocessor_config.json", resample=5)
    error = failure(tmp_path, checkpoint_copy)
    assert "resample is 5 (HAMMING), and image_processor=torchvision has no such resampling; add" in error
    prepare(checkpoint_copy, tmp_path / "models", "--set", "image_preprocess.image_processor=pillow")


@pytest.mark.parametrize(
    "arguments", [[], ["a/b", "--random", "vit-b-32"], ["a/b", "--set", "x"], ["a/b", "--version", "0"]]
)
def test_wrong_usage_exits_with_code_2(tmp_path, arguments):
    assert run(*arguments, "--output", tmp_path / "models").exit_code == 2


def test_labels_file_is_copied_into_the_version(tmp_path, small_checkpoint):
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat\na dog\n", encoding="utf-8")
    prepare(small_checkpoint, tmp_path / "models", "--labels", labels)
    copied = tmp_path / "models" / "text_encoder" / "1" / writer.PRELOADED_LABELS
    assert copied.read_text(encoding="utf-8") == "a cat\na dog\n"


def change_file(directory, name, **changes):
    """Change settings of a JSON file."""
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tower(directory, tower, **changes):
    settings = json.loads((directory / "config.json").read_text())[tower]
    change_file(directory, "config.json", **{tower: settings | changes})


@contextlib.contextmanager
def tensors_of(directory):
    """Let the context change the tensors of a checkpoint."""
    tensors = load_file(directory / "model.safetensors")
    yield tensors
    save_file(tensors, directory / "model.safetensors")


def drop_tensor(directory):
    with tensors_of(directory) as tensors:
        del tensors["visual_projection.weight"]


def reshape_tensor(directory):
    with tensors_of(directory) as tensors:
        tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:, :-1].contiguous()


def break_tensor(directory):
    with tensors_of(directory) as tensors:
        tensors["visual_projection.weight"][0, 0] = float("nan")


def pickle_code(directory):
    """Replace the weights by a pickle that would call a function."""
    (directory / "model.safetensors").unlink()
    torch.save({"logit_scale": Path("/")}, directory / "pytorch_model.bin")


def truncate_weights(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tokenizer(directory):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (directory / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / "config.json").unlink(), "has no readable config.json"),
        (lambda directory: (directory / "config.json").write_text("{"), "has no readable config.json"),
        (
            lambda directory: change_file(directory, "config.json", model_type="siglip"),
            "is a 'siglip' model, not 'clip'",
        ),
        (
            lambda directory: change_tower(directory, "text_config", hidden_act="tanh"),
            "uses the activation 'tanh'; supported are ",
        ),
        (
            lambda directory: change_tower(directory, "vision_config", image_size=225),
            "image_size 225 is not a multiple of patch_size 32",
        ),
        (lambda directory: (directory / "model.safetensors").unlink(), "has no weights"),
        (truncate_weights, "model.safetensors is damaged or incomplete"),
        (pickle_code, "pytorch_model.bin holds other objects than tensors, or is damaged"),
        (drop_tensor, "1 tensors are missing, the first is visual_projection.weight"),
        (reshape_tensor, "visual_projection.weight has shape"),
        (break_tensor, "visual_projection.weight holds values that are not finite"),
        (
            lambda directory: (directory / "preprocessor_config.json").unlink(),
            "no readable preprocessor_config.json",
        ),
        (drop_tokenizer, "has no tokenizer"),
        (lambda directory: (directory / "tokenizer.json").write_text("{}"), "has no readable tokenizer"),
    ],
)
def test_broken_checkpoint_is_reported_in_one_line(tmp_path, checkpoint_copy, damage, message):
    damage(checkpoint_copy)
    assert message in failure(tmp_path, checkpoint_copy)


def test_hub_id_without_network_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    line = failure(tmp_path, "openai/no-such-checkpoint")
    assert (
        "'openai/no-such-checkpoint' is not a local directory, and the download from the hub failed" in line
    )


def test_pickled_and_sharded_weights_give_the_same_version(tmp_path, checkpoint_copy):
    tensors = load_file(checkpoint_copy / "model.safetensors")
    (checkpoint_copy / "model.safetensors").unlink()
    torch.save(tensors, checkpoint_copy / "pytorch_model.bin")
    prepare(checkpoint_copy, tmp_path / "pickled")
    (checkpoint_copy / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, checkpoint_copy / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (checkpoint_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    prepare(checkpoint_copy, tmp_path / "sharded")
    for model, name in (("vision_encoder", "vision.safetensors"), ("text_encoder", "text.safetensors")):
        pickled, sharded = (tmp_path / kind / model / "1" / name for kind in ("pickled", "sharded"))
        assert pickled.read_bytes() == sharded.read_bytes()
    (checkpoint_copy / "model-2.safetensors").unlink()
    assert "has no weights: model-2.safetensors is missing" in failure(tmp_path, checkpoint_copy)


@pytest.mark.parametrize("failing", ["_file_facts", "_stage_model"])
def test_interrupted_run_keeps_the_previous_version(prepared, small_checkpoint, monkeypatch, failing):
    before = tree(prepared)
    calls = []
    whole = getattr(writer, failing)

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError("no space left on device")
        return whole(*arguments)

    monkeypatch.setattr(writer, failing, fail_late)
    done = run(small_checkpoint, "--output", prepared, "--precision", "float32")
    assert done.exit_code == 1
    assert "no space left" in done.stderr
    assert tree(prepared) == before
    assert not list(prepared.glob(STAGING_PREFIX + "*"))


def test_failed_rename_is_undone(prepared, small_checkpoint):
    shutil.rmtree(prepared / "clip_text_embedding")
    (prepared / "clip_text_embedding").write_text("a file in place of the last model")
    before = tree(prepared)
    done = run(small_checkpoint, "--output", prepared, "--precision", "float32")
    assert done.exit_code == 1
    assert tree(prepared) == before


def test_staging_directory_of_a_killed_run_is_removed(tmp_path, small_checkpoint):
    output = tmp_path / "models"
    (output / f"{STAGING_PREFIX}killed" / "vision_encoder").mkdir(parents=True)
    prepare(small_checkpoint, output)
    assert sorted(path.name for path in output.iterdir()) == sorted(MODELS)
    assert all((output / model / "1" / "manifest.json").is_file() for model in ENSEMBLES)
