"""Keys of compiled towers, their cache on disk, and compiled towers that are not used."""

import json
import os
import zipfile
from types import SimpleNamespace

import pytest
import torch

from clip_compile import Compilation, CompileError, CompileOptions, cache_directory, fingerprint
from clip_vision import VisionModel

SETTINGS = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "patch_size": 2,
    "image_size": 4,
    "num_channels": 3,
    "projection_dim": 4,
}
LARGEST = 16


@pytest.fixture
def options():
    return CompileOptions("float32", torch.get_num_threads(), LARGEST)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = VisionModel(SETTINGS)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


@pytest.fixture
def directory(tmp_path):
    """A version directory with a manifest only."""
    write_manifest(tmp_path)
    return tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return cache_directory()


def write_manifest(directory, **changed):
    hashes = {"vision.safetensors": "1", "clip_vision.py": "2", "model.py": "3"} | changed
    files = {name: {"sha256": digest} for name, digest in hashes.items()}
    (directory / "manifest.json").write_text(json.dumps({"files": files}))


@pytest.fixture
def load(model, directory, cache, monkeypatch):
    """Return a function that loads a kept tower with the given function instead of torch's."""

    def _load(read):
        torchs = SimpleNamespace(aoti_load_package=read)  # the import of the real one takes seconds
        monkeypatch.setitem(vars(torch), "_inductor", torchs)
        return Compilation(model, directory, LARGEST).load()

    return _load


@pytest.fixture
def kept(directory, cache, options):
    """A kept tower: an archive with one file."""
    path = cache / f"vision-{fingerprint(directory, options)}.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", bytes(1000))
    return path


def test_fingerprint_depends_on_weights_code_and_options(directory, options):
    keys = {fingerprint(directory, options)}
    write_manifest(directory, **{"model.py": "other"})  # which takes no part in the compilation
    assert fingerprint(directory, options) in keys
    for changed in ("vision.safetensors", "clip_vision.py"):
        write_manifest(directory, **{changed: "other"})
        keys.add(fingerprint(directory, options))
    for option in ({"precision": "bfloat16"}, {"threads": 99}, {"largest": 64}):
        keys.add(fingerprint(directory, options._replace(**option)))
    assert len(keys) == 6


def test_precision_of_the_model_is_part_of_the_key(model, directory, cache, options):
    before = Compilation(model, directory, LARGEST).path
    assert before.name == f"vision-{fingerprint(directory, options)}.pt2"
    model.set_precision(torch.bfloat16)
    expected = fingerprint(directory, options._replace(precision="bfloat16"))
    assert Compilation(model, directory, LARGEST).path.name == f"vision-{expected}.pt2"


def test_kept_tower_that_cannot_be_loaded_is_reported_and_removed(load, cache, kept):
    def fail(path):
        raise RuntimeError("torn")

    with pytest.raises(CompileError, match="RuntimeError: torn"):
        load(fail)
    assert list(cache.iterdir()) == []


def test_kept_tower_with_a_flipped_bit_is_not_loaded_and_removed(load, model, kept):
    content = bytearray(kept.read_bytes())
    content[500] ^= 1
    kept.write_bytes(content)
    with pytest.raises(CompileError, match=r"\.pt2 is damaged: weights"):
        load(lambda path: model)
    assert not kept.exists()


def test_kept_tower_is_loaded_from_a_directory_that_is_removed(load, cache, kept, model, monkeypatch):
    monkeypatch.setenv("TMPDIR", "before")
    seen = []

    def read(path):
        seen.append((path, os.environ["TMPDIR"]))
        assert os.path.isdir(seen[0][1])
        return model

    assert load(read) is model
    ((path, scratch),) = seen
    assert [path] == list(map(str, cache.iterdir()))
    assert not os.path.exists(scratch)
    assert os.environ["TMPDIR"] == "before"


def test_compiled_tower_whose_embeddings_differ_is_rejected(load, kept, model):
    def turned(pixels):
        return torch.nn.functional.normalize(model(pixels) + torch.tensor([0.0, 0.0, 0.0, 0.1]))

    with pytest.raises(CompileError, match=r"embeddings differ from the uncompiled tower's: cosine 0\.9"):
        load(lambda path: turned)


def test_cache_directory_that_cannot_be_created_is_reported(model, directory, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(directory / "manifest.json" / "cache"))
    with pytest.raises(CompileError, match="NotADirectoryError"):
        Compilation(model, directory, LARGEST)


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TRITONCLIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_directory() == tmp_path / ".cache" / "tritonclip"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "tritonclip"
