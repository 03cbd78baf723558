"""The repository of a served source: prepared repositories, checkpoints, their cache, and wrong sources."""

import json
import shutil

import pytest
from click.testing import CliRunner

from tests.helpers.servers import ROOT
from tritonclip_server.repository.checkpoint_files import CheckpointFiles
from tritonclip_server.repository.identity import checkpoint_key
from tritonclip_server.repository.prepare import CheckpointSettings
from tritonclip_server.repository.prepare import main as prepare
from tritonclip_server.repository.versions import set_served
from tritonclip_server.repository.writer import RepositoryError
from tritonclip_server.serving.serve import main as serve
from tritonclip_server.serving.source import cache_directory, prepared_repository, repository_name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(source, directory=None):
    lines = []
    return prepared_repository(str(source), directory, CheckpointSettings(), lines.append), lines


def test_checkpoint_is_prepared_in_the_cache_once(cache, small_checkpoint):
    repository, lines = prepared(small_checkpoint)
    assert repository.parent == cache / "repositories"
    assert repository.name.startswith("checkpoint--")
    assert lines[0].startswith("profile ")
    assert lines[1] == f"preparing {small_checkpoint} in {repository}"
    assert (repository / "vision_encoder" / "1" / "model.py").is_file()
    again, lines = prepared(small_checkpoint)
    assert again == repository
    assert lines[1:] == [f"{repository} is up to date: version 1 holds {small_checkpoint}"]


def test_checkpoint_is_prepared_in_the_given_directory(cache, small_checkpoint, tmp_path):
    repository, _ = prepared(small_checkpoint, directory=tmp_path / "models")
    assert repository == tmp_path / "models"
    assert (repository / "clip_zero_shot" / "config.pbtxt").is_file()
    assert not cache.exists()


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TRITONCLIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_directory() == tmp_path / ".cache" / "tritonclip"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "tritonclip"
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_repository_is_named_after_checkpoint_revision_and_settings(tmp_path):
    hub = CheckpointFiles("openai/clip", "0123456789abcdef", tmp_path, (), "f" * 64)
    plain = repository_name(hub, CheckpointSettings())
    assert plain == "openai--clip--0123456789ab"
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat")
    float32 = CheckpointSettings(parameters={"vision_encoder": {"precision": "float32"}})
    changed = (float32, CheckpointSettings(labels=labels), CheckpointSettings(profile="gpu"))
    names = {plain, *(repository_name(hub, settings) for settings in changed)}
    assert len(names) == 4
    assert all(name.startswith(plain) for name in names)
    local = CheckpointFiles(str(tmp_path), "local", tmp_path, (), "f" * 64)
    name = repository_name(local, CheckpointSettings())
    assert name == f"{tmp_path.name}--{checkpoint_key(local)[:12]}"
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert repository_name(local, CheckpointSettings()) != name


@pytest.mark.parametrize("source", ["/no/such/directory", "./missing", "a/b/c", __file__])
def test_source_that_is_neither_a_directory_nor_a_hub_id_is_rejected(cache, source):
    with pytest.raises(RepositoryError, match="is not a directory, and not a hub id such as openai/clip"):
        prepared(source)
    assert not cache.exists()


def test_directory_that_is_neither_a_repository_nor_a_checkpoint_is_rejected(cache, tmp_path):
    with pytest.raises(RepositoryError, match="is not a model repository .* and not a checkpoint"):
        prepared(tmp_path)


def test_damaged_checkpoint_leaves_nothing_in_the_cache(cache, small_checkpoint, tmp_path):
    broken = shutil.copytree(small_checkpoint, tmp_path / "broken")
    (broken / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    done = CliRunner().invoke(serve, [str(broken)])
    assert done.exit_code == 1
    assert "is a 'siglip' model, not 'clip'" in done.stderr
    assert list((cache / "repositories").iterdir()) == []


def test_repository_that_a_rollout_switched_is_not_taken_for_the_checkpoint(
    cache, small_checkpoint, tmp_path
):
    models = tmp_path / "models"
    for version in ("1", "2"):
        arguments = [str(small_checkpoint), "--output", str(models), "--version", version]
        assert CliRunner().invoke(prepare, arguments).exit_code == 0
    with pytest.raises(RepositoryError, match="serves version 2 since a rollout"):
        prepared(small_checkpoint, models)
    for model in ("clip_zero_shot", "clip_image_embedding", "clip_text_embedding", "clip_pixel_embedding"):
        set_served(models, model, 1)
    assert prepared(small_checkpoint, models)[0] == models


@pytest.mark.parametrize(
    "option",
    [
        ("--repository", "x"),
        ("--revision", "main"),
        ("--precision", "float32"),
        ("--profile", "gpu"),
        ("--set", "a.b=c"),
        ("--labels", __file__),
    ],
    ids=lambda option: option[0],
)
def test_checkpoint_options_are_rejected_for_a_prepared_repository(option):
    done = CliRunner().invoke(serve, [str(ROOT / "model_repository"), *option])
    assert done.exit_code == 2
    assert "is a prepared model repository" in done.stderr
