"""The command `prepare` on valid and broken checkpoints."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from google.protobuf import text_format
from safetensors.torch import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.repository import checkpoint, writer
from tritonclip_server.repository.prepare import main
from tritonclip_server.repository.writer import ENSEMBLES, MODELS, PYTHON_MODELS, STAGING_PREFIX


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def prepare(output, *arguments, source=DEMO_CHECKPOINT):
    done = run(source, "--output", output, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def tree(directory):
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def broken(tmp_path):
    """A copy of the demo checkpoint that the test breaks."""
    return shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")


def failure(tmp_path, source, *arguments):
    """Return the error line of a run that must fail and leave nothing behind."""
    output = tmp_path / "models"
    done = run(source, "--output", output, *arguments)
    assert done.exit_code == 1, done.output
    assert not output.exists()
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_each_model_has_its_files_and_a_manifest(tmp_path):
    output = tmp_path / "models"
    prepare(output)
    assert sorted(path.name for path in output.iterdir()) == sorted(MODELS)
    for model in MODELS:
        manifest = json.loads((output / model / "1" / "manifest.json").read_text())
        version = output / model / "1"
        files = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
        present = {name for name in files if "__pycache__" not in name} - {"manifest.json"}
        assert set(manifest["files"]) == present
        for name, facts in manifest["files"].items():
            assert checkpoint.file_sha256(output / model / "1" / name) == facts["sha256"]
        assert manifest["checkpoint"]["source"] == str(DEMO_CHECKPOINT)
        assert ("model.py" in present) == (model in PYTHON_MODELS)
    whole = load_file(DEMO_CHECKPOINT / "model.safetensors")
    vision = load_file(output / "vision_encoder" / "1" / "vision.safetensors")
    text = load_file(output / "text_encoder" / "1" / "text.safetensors")
    assert vision.keys().isdisjoint(text)
    assert vision.keys() | text.keys() == whole.keys() - {"logit_scale"}
    assert all(torch.equal(whole[name], tensor) for name, tensor in (vision | text).items())


def test_pixel_model_publishes_the_image_settings(tmp_path, broken):
    path = broken / "preprocessor_config.json"
    changes = {"size": {"height": 200, "width": 240}, "do_center_crop": False, "resample": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    prepare(tmp_path, source=broken)
    served = (tmp_path / "image_preprocess" / "1" / "processor.json").read_text()
    config = text_format.Parse(
        (tmp_path / "clip_pixel_embedding" / "config.pbtxt").read_text(), ModelConfig()
    )
    published = config.parameters["processor"].string_value
    assert published == '{"convert_rgb":true,"crop":null,"resample":2,"resize":[200,240]}'
    assert json.loads(published) == json.loads(served)


def test_second_run_reports_up_to_date_and_changes_nothing(tmp_path):
    output = tmp_path / "models"
    prepare(output)
    before = tree(output)
    assert "is up to date" in prepare(output)
    assert tree(output) == before


def test_damaged_version_is_written_again(tmp_path):
    output = tmp_path / "models"
    prepare(output)
    weights = output / "vision_encoder" / "1" / "vision.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    prepare(output)
    assert weights.read_bytes() == whole


def test_second_version_is_added_next_to_the_first(tmp_path):
    output = tmp_path / "models"
    prepare(output)
    prepare(output, "--version", 2)
    assert sorted(path.name for path in (output / "vision_encoder").iterdir()) == ["1", "2", "config.pbtxt"]


def test_other_checkpoint_replaces_a_version_only_with_force(tmp_path, broken):
    output = tmp_path / "models"
    prepare(output)
    before = tree(output)
    tensors = load_file(broken / "model.safetensors")
    tensors["logit_scale"] += 1
    save_file(tensors, broken / "model.safetensors")
    done = run(broken, "--output", output)
    assert done.exit_code == 1
    assert "--version" in done.stderr
    assert "--force" in done.stderr
    assert tree(output) == before
    prepare(output, "--force", source=broken)
    assert json.loads((output / "similarity" / "1" / "manifest.json").read_text())["checkpoint"][
        "source"
    ] == str(broken)


def test_precision_and_set_change_parameters(tmp_path):
    output = tmp_path / "models"
    prepare(output, "--precision", "float32", "--set", "text_encoder.cache_bytes=1234")
    text = (output / "text_encoder" / "config.pbtxt").read_text()
    assert '"1234"' in text
    assert '"float32"' in text
    assert '"float32"' in (output / "vision_encoder" / "config.pbtxt").read_text()


def test_set_changes_instances_and_batch_sizes(tmp_path):
    output = tmp_path / "models"
    sizes = ("image_preprocess.instances=4", "vision_encoder.max_batch_size=256")
    prepare(output, *(word for size in sizes for word in ("--set", size)))
    texts = [
        (output / model / "config.pbtxt").read_text() for model in ("image_preprocess", "vision_encoder")
    ]
    preprocess, vision = (text_format.Parse(text, ModelConfig()) for text in texts)
    assert (preprocess.instance_group[0].count, vision.instance_group[0].count) == (4, 1)
    assert (preprocess.max_batch_size, vision.max_batch_size) == (64, 256)
    assert "instances" not in preprocess.parameters


def test_set_changes_priority_levels(tmp_path):
    output = tmp_path / "models"
    prepare(output, "--set", "vision_encoder.instances=4", "--set", "vision_encoder.priority_levels=2")
    text = (output / "vision_encoder" / "config.pbtxt").read_text()
    batching = text_format.Parse(text, ModelConfig()).dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("text_encoder.cash=1", "no parameter 'cash'; it has cache_bytes"),
        ("encoder.x=1", "no model 'encoder'"),
        ("vision_encoder.instances=0", "vision_encoder.instances must be a whole number of at least 1"),
        ("similarity.max_batch_size=many", "similarity.max_batch_size must be a whole number"),
        ("vision_encoder.priority_levels=2", "priority_levels needs vision_encoder.instances=4 or more"),
    ],
)
def test_unknown_parameters_are_rejected(tmp_path, setting, message):
    assert message in failure(tmp_path, DEMO_CHECKPOINT, "--set", setting)


@pytest.mark.parametrize(
    "arguments", [[], [DEMO_CHECKPOINT, "--random", "vit-b-32"], [DEMO_CHECKPOINT, "--set", "x"]]
)
def test_wrong_usage_exits_with_code_2(tmp_path, arguments):
    assert run(*arguments, "--output", tmp_path / "models").exit_code == 2


def test_labels_file_is_copied_into_the_version(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat\na dog\n", encoding="utf-8")
    prepare(tmp_path / "models", "--labels", labels)
    copied = tmp_path / "models" / "text_encoder" / "1" / writer.PRELOADED_LABELS
    assert copied.read_text(encoding="utf-8") == "a cat\na dog\n"


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_tensor(directory):
    tensors = load_file(directory / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, directory / "model.safetensors")


def reshape_tensor(directory):
    tensors = load_file(directory / "model.safetensors")
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:, :-1].contiguous()
    save_file(tensors, directory / "model.safetensors")


def break_tensor(directory):
    tensors = load_file(directory / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, directory / "model.safetensors")


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
        (lambda directory: change_config(directory, model_type="siglip"), "is a 'siglip' model, not 'clip'"),
        (lambda directory: (directory / "model.safetensors").unlink(), "has no weights"),
        (truncate_weights, "model.safetensors is damaged or incomplete"),
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
def test_broken_checkpoint_is_reported_in_one_line(tmp_path, broken, damage, message):
    damage(broken)
    assert message in failure(tmp_path, broken)


def test_hub_id_without_network_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    line = failure(tmp_path, "openai/no-such-checkpoint")
    assert (
        "'openai/no-such-checkpoint' is not a local directory, and the download from the hub failed" in line
    )


def test_pickled_and_sharded_weights_give_the_same_version(tmp_path, broken):
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(tensors, broken / "pytorch_model.bin")
    prepare(tmp_path / "pickled", source=broken)
    (broken / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, broken / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    prepare(tmp_path / "sharded", source=broken)
    for model, name in (("vision_encoder", "vision.safetensors"), ("text_encoder", "text.safetensors")):
        pickled, sharded = (tmp_path / kind / model / "1" / name for kind in ("pickled", "sharded"))
        assert pickled.read_bytes() == sharded.read_bytes()
    (broken / "model-2.safetensors").unlink()
    assert "has no weights: model-2.safetensors is missing" in failure(tmp_path, broken)


@pytest.mark.parametrize("failing", ["_write_manifest", "_stage_model"])
def test_interrupted_run_keeps_the_previous_version(tmp_path, monkeypatch, failing):
    output = tmp_path / "models"
    prepare(output)
    before = tree(output)
    calls = []
    whole = getattr(writer, failing)

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError("no space left on device")
        return whole(*arguments)

    monkeypatch.setattr(writer, failing, fail_late)
    done = run(DEMO_CHECKPOINT, "--output", output, "--precision", "float32")
    assert done.exit_code == 1
    assert "no space left" in done.stderr
    assert tree(output) == before
    assert not list(output.glob(STAGING_PREFIX + "*"))


def test_failed_rename_is_undone(tmp_path):
    output = tmp_path / "models"
    prepare(output)
    shutil.rmtree(output / "clip_text_embedding")
    (output / "clip_text_embedding").write_text("a file in place of the last model")
    before = tree(output)
    done = run(DEMO_CHECKPOINT, "--output", output, "--precision", "float32")
    assert done.exit_code == 1
    assert tree(output) == before


def test_staging_directory_of_a_killed_run_is_removed(tmp_path):
    output = tmp_path / "models"
    (output / f"{STAGING_PREFIX}killed" / "vision_encoder").mkdir(parents=True)
    prepare(output)
    assert sorted(path.name for path in output.iterdir()) == sorted(MODELS)
    assert all((output / model / "1" / "manifest.json").is_file() for model in ENSEMBLES)
