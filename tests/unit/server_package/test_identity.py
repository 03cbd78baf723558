"""The identity of a version: what changes it, what does not, and that `prepare` follows every change."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.waiting import wait_until
from tritonclip_server.repository import writer
from tritonclip_server.repository.configs import (
    CONFIG,
    ENSEMBLES,
    MODELS,
    PYTHON_MODELS,
    read_configuration,
    source_configuration,
)
from tritonclip_server.repository.identity import answer_parameters, version_identity
from tritonclip_server.repository.prepare import main
from tritonclip_server.repository.versions import check_consistent, created_and_locked, locked
from tritonclip_server.repository.writer import RepositoryError
from tritonclip_server.serving.serve import main as serve


def prepare(source, output, *arguments):
    done = CliRunner().invoke(main, [str(source), "--output", str(output), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def manifest(output, model, version=1):
    return json.loads((output / model / str(version) / "manifest.json").read_text())


def identity(output, version=1):
    """Return the identity of a version, which all manifests and ensembles must agree on."""
    configs = [read_configuration((output / model / CONFIG).read_text()) for model in ENSEMBLES]
    found = {manifest(output, model, version)["identity"] for model in MODELS}
    found |= {config.parameters["identity"].string_value for config in configs}
    (only,) = found
    return only


def change(directory, name, **changes):
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tokenizer(directory):
    """Swap two tokens of the vocabulary, as an edit of tokenizer.json would."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))


def edit_activation(directory):
    text = json.loads((directory / "config.json").read_text())["text_config"]
    change(directory, "config.json", text_config=text | {"hidden_act": "gelu"})


def edit_mean(directory):
    change(directory, "preprocessor_config.json", image_mean=[0.4, 0.5, 0.6])


def edit_resampling(directory):
    change(directory, "preprocessor_config.json", resample=2)


@pytest.mark.parametrize(
    ("edit", "force"),
    [
        (edit_mean, ()),
        (edit_mean, ("--force",)),
        (edit_resampling, ()),
        (edit_tokenizer, ()),
        (edit_activation, ()),
    ],
)
def test_edited_settings_are_written_again_and_change_the_identity(
    prepared_once, prepared, checkpoint_copy, edit, force
):
    edit(checkpoint_copy)
    assert "is up to date" not in prepare(checkpoint_copy, prepared, *force)
    assert identity(prepared) != identity(prepared_once)
    assert "is up to date" in prepare(checkpoint_copy, prepared, *force)


def test_moved_checkpoint_other_version_and_labels_keep_the_identity(
    prepared_once, checkpoint_copy, tmp_path
):
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat")
    output = tmp_path / "models"
    prepare(
        checkpoint_copy, output, "--version", 7, "--labels", labels, "--set", "text_encoder.cache_bytes=1234"
    )
    assert identity(output, 7) == identity(prepared_once)


def test_version_with_another_precision_has_another_identity(prepared_once, small_checkpoint, tmp_path):
    prepare(small_checkpoint, tmp_path / "models", "--precision", "bfloat16")
    assert identity(tmp_path / "models") != identity(prepared_once)


def test_parameters_that_change_answers_are_part_of_the_identity():
    found = {model: set(answer_parameters(model, source_configuration(model))) for model in PYTHON_MODELS}
    assert found == {
        "admission": set(),
        "image_preprocess": {"image_processor", "jpeg_draft"},
        "vision_encoder": {"precision"},
        "text_encoder": {"precision"},
        "similarity": set(),
    }


@pytest.mark.parametrize(
    ("model", "file", "changes"),
    [
        ("vision_encoder", "clip_vision.py", True),
        ("vision_encoder", "clip_common/tower.py", True),
        ("image_preprocess", "processor.json", True),
        ("similarity", "similarity.json", True),
        ("text_encoder", "clip_common/metrics.py", False),
        ("text_encoder", "preload_labels.txt", False),
        ("admission", "model.py", False),
    ],
)
def test_files_that_can_change_answers_change_the_identity(prepared_once, model, file, changes):
    digests = {
        name: {path: facts["sha256"] for path, facts in manifest(prepared_once, name)["files"].items()}
        for name in PYTHON_MODELS
    }
    parameters = {name: manifest(prepared_once, name)["parameters"] for name in PYTHON_MODELS}
    assert version_identity(digests, parameters) == identity(prepared_once)
    digests[model][file] = "0" * 64
    assert (version_identity(digests, parameters) != identity(prepared_once)) == changes


def test_changed_model_code_is_written_again(prepared, small_checkpoint, tmp_path, monkeypatch):
    code = shutil.copytree(writer.MODEL_REPOSITORY, tmp_path / "code")
    metrics = code / "clip_common" / "metrics.py"
    metrics.write_text(metrics.read_text() + "\n# changed\n")
    monkeypatch.setattr(writer, "MODEL_REPOSITORY", code)
    assert "is up to date" not in prepare(small_checkpoint, prepared)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file",
    [
        "vision_encoder/1/vision.safetensors",
        "clip_zero_shot/1/config.pbtxt",
    ],
)
def test_version_with_a_flipped_bit_is_written_again(prepared, small_checkpoint, file):
    whole = (prepared / file).read_bytes()
    flip_bit(prepared / file)
    assert "is up to date" not in prepare(small_checkpoint, prepared)
    assert (prepared / file).read_bytes() == whole


def test_edited_precision_in_config_pbtxt_is_written_again(prepared, small_checkpoint):
    config = prepared / "vision_encoder" / CONFIG
    whole = config.read_text()
    changed = read_configuration(whole)
    changed.parameters["precision"].string_value = "bfloat16"
    config.write_text(str(changed))
    assert "is up to date" not in prepare(small_checkpoint, prepared)
    assert config.read_text() == whole


def test_removed_config_pbtxt_is_written_again(prepared, small_checkpoint):
    (prepared / "similarity" / CONFIG).unlink()
    prepare(small_checkpoint, prepared)
    assert (prepared / "similarity" / CONFIG).is_file()


def test_repository_with_models_of_two_preparations_is_not_served(prepared, small_checkpoint, tmp_path):
    check_consistent(prepared)
    prepare(small_checkpoint, tmp_path / "other", "--precision", "bfloat16")
    other = identity(tmp_path / "other")
    shutil.rmtree(prepared / "text_encoder" / "1")
    shutil.copytree(tmp_path / "other" / "text_encoder" / "1", prepared / "text_encoder" / "1")
    done = CliRunner().invoke(serve, [str(prepared)])
    assert done.exit_code == 1
    assert "the models of version 1 come from different preparations" in done.stderr
    assert other[:12] in done.stderr
    assert "is up to date" not in prepare(small_checkpoint, prepared)
    check_consistent(prepared)


def test_second_prepare_waits_for_the_first(small_checkpoint, tmp_path):
    output, lines = tmp_path / "models", []
    output.mkdir()
    second = threading.Thread(target=lambda: lines.append(prepare(small_checkpoint, output)))
    with locked(output):
        second.start()
        wait_until(lambda: _waits_for_a_lock(output), "the second prepare does not wait")
        assert lines == [] and not list(output.iterdir())
    second.join()
    assert f"waiting for another process that writes {output}" in lines[0]
    assert identity(output)


def _waits_for_a_lock(directory):
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(line.split()[6].endswith(f":{directory.stat().st_ino}") for line in waiting)


def test_waiting_prepare_creates_a_directory_that_the_first_removed(tmp_path):
    output, waiting, held = tmp_path / "models", [], []

    def second():
        with created_and_locked(output, waiting.append):
            held.append(output.is_dir())
            (output / "file").touch()

    thread = threading.Thread(target=second)
    with created_and_locked(output, waiting.append):  # removes its directory, which stays empty
        thread.start()
        wait_until(lambda: _waits_for_a_lock(output), "the second does not wait")
    thread.join()
    assert held == [True]
    assert (output / "file").is_file()


def test_lock_of_a_rollout_names_what_holds_it(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(RepositoryError, match="rollout or `tritonclip-server prepare` is in progress"),
        locked(tmp_path),
    ):
        pass


def test_int8_is_for_images_only_and_its_sample_images_are_part_of_the_version(tmp_path):
    found = {}
    for precision in ("float32", "int8"):
        output = tmp_path / precision
        prepare("scripts/demo/checkpoint", output, "--precision", precision)
        found[precision] = identity(output)
        files = manifest(output, "vision_encoder")["files"]
        assert ("sample_pixels.npy" in files) == (precision == "int8")
        assert manifest(output, "vision_encoder")["parameters"] == {"precision": precision}
        assert manifest(output, "text_encoder")["parameters"] == {"precision": "float32"}
    assert found["float32"] != found["int8"]
