"""The compiled vision tower: its embeddings, its cache on disk, and failures to compile."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_common.tower import choose_precision
from clip_compile import CompileError, fingerprint, load_or_compile
from clip_encoder import DirectEncoder
from clip_vision import load_vision_model
from tests.helpers.calls import infer, metric
from tests.helpers.servers import DEMO_CHECKPOINT

CPU = torch.device("cpu")
NO_COMPILER = {"cpp.cxx": ("no-such-compiler",)}

# torch.export and its compilers use deprecated features of Python.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The demo checkpoint with a single layer in its vision tower, which is compiled faster."""
    copy = shutil.copytree(DEMO_CHECKPOINT, tmp_path_factory.mktemp("small") / "checkpoint")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["num_hidden_layers"] = 1
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(copy / "model.safetensors")
    further = re.compile(r"vision_model\.encoder\.layers\.[1-9]")
    kept = {name: tensor for name, tensor in tensors.items() if not further.match(name)}
    save_file(kept, copy / "model.safetensors")
    return copy


@pytest.fixture(scope="module")
def served(checkpoint, prepare, servers, tmp_path_factory):
    """A server that has compiled its tower, its version directory, and its cache directory."""
    cache = tmp_path_factory.mktemp("cache")
    settings = ("vision_encoder.compile=on", f"vision_encoder.threads={torch.get_num_threads()}")
    repository = prepare(checkpoint, *(word for setting in settings for word in ("--set", setting)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONCLIP_CACHE_DIR", str(cache))
        with servers.run(repository, "compiles its tower into an empty cache") as server:
            yield server, repository / "vision_encoder" / "1", cache


@pytest.fixture(scope="module")
def directory(served):
    return served[1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (27, 3, 224, 224), dtype=np.uint8)


def test_server_compiles_its_tower_and_answers_with_it(served, pixels):
    server, directory, _ = served
    assert metric(server, "tritonclip_model_info", model="vision_encoder", execution="compiled") == 1
    model = load_vision_model(directory)
    model.set_precision(choose_precision("auto", CPU, exact_on_cpu=False))
    found = infer(server, "grpc", "vision_encoder", pixel_values=pixels[None])["image_embeds"][0]
    expected = DirectEncoder(model, CPU, 16).encode([pixels])
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_cached_tower_is_loaded_without_a_compiler(served, pixels, tmp_path, monkeypatch):
    _, directory, cache = served
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(cache))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (kept,) = cache.iterdir()
    model = load_vision_model(directory)
    model.set_precision(choose_precision("auto", CPU, exact_on_cpu=False))
    with torch._inductor.config.patch(NO_COMPILER):
        compiled = load_or_compile(model, directory, largest=64)
    assert list(cache.iterdir()) == [kept]
    assert list(tmp_path.iterdir()) == []  # so nothing would remain if this process were killed now
    found = DirectEncoder(compiled, CPU, 16).encode([pixels])  # in two passes
    expected = DirectEncoder(model, CPU, 16).encode([pixels])
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_missing_compiler_is_reported_and_leaves_no_files(directory, cache):
    with (
        torch._inductor.config.patch(NO_COMPILER),
        pytest.raises(CompileError, match="no-such-compiler|[Cc]ompiler"),
    ):
        load_or_compile(load_vision_model(directory), directory, largest=16)
    assert list(cache.iterdir()) == []


def test_damaged_cache_file_is_reported_and_removed(directory, cache):
    model = load_vision_model(directory)
    cache.mkdir()
    (cache / f"vision-{fingerprint(model, directory, 16)}.pt2").write_bytes(b"torn")
    with pytest.raises(CompileError):
        load_or_compile(model, directory, largest=16)
    assert list(cache.iterdir()) == []
