"""The compiled vision tower: its embeddings, its cache on disk, and failures to compile."""

import json
import re
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_common.tower import choose_precision
from clip_compile import Compilation, CompileError, CompileOptions, compile_tower
from clip_encoder import DirectEncoder
from clip_vision import load_vision_model
from tests.helpers.calls import infer, metric
from tests.helpers.servers import DEMO_CHECKPOINT
from tests.helpers.waiting import wait_until

CPU = torch.device("cpu")
COMPILES_S = 600.0
NO_COMPILER = {"cpp.cxx": ("no-such-compiler",)}

# torch.export and its compilers use deprecated features of Python.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


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
    """A server that compiles its tower, its version directory, and its cache directory."""
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


def test_server_answers_while_it_compiles_and_then_with_the_compiled_tower(served, pixels):
    server, directory, cache = served
    model = load_vision_model(directory)
    model.set_precision(choose_precision("auto", CPU, exact_on_cpu=False))
    expected = DirectEncoder(model, CPU, 16).encode([pixels])

    def answer():
        found = infer(server, "grpc", "vision_encoder", pixel_values=pixels[None])["image_embeds"][0]
        assert (found * expected).sum(axis=1).min() > 0.9999

    def compiled():
        answer()
        return metric(server, "tritonclip_model_info", model="vision_encoder", execution="compiled") == 1

    assert metric(server, "tritonclip_model_info", model="vision_encoder", execution="eager") == 1
    assert not list(cache.glob("*.pt2"))
    wait_until(compiled, "the compiled tower is not used", COMPILES_S, interval_s=1.0)
    wait_until(
        lambda: metric(server, "tritonclip_model_info", model="vision_encoder", execution="eager") == 0,
        "the metrics still say that the uncompiled tower serves",
    )
    answer()


def test_cached_tower_is_loaded_without_a_compiler(served, pixels, tmp_path, monkeypatch):
    _, directory, cache = served
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(cache))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (kept,) = cache.iterdir()
    model = load_vision_model(directory)
    model.set_precision(choose_precision("auto", CPU, exact_on_cpu=False))
    with torch._inductor.config.patch(NO_COMPILER):
        compiled = Compilation(model, directory, largest=64).load()
    assert list(cache.iterdir()) == [kept]
    assert list(tmp_path.iterdir()) == []  # so nothing would remain if this process were killed now
    found = DirectEncoder(compiled, CPU, 16).encode([pixels])  # in two passes
    expected = DirectEncoder(model, CPU, 16).encode([pixels])
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_missing_compiler_is_reported_and_leaves_no_files(directory, tmp_path):
    options = CompileOptions("float32", 1, largest=16)
    with (
        torch._inductor.config.patch(NO_COMPILER),
        pytest.raises(CompileError, match="no-such-compiler|[Cc]ompiler"),
    ):
        compile_tower(directory, tmp_path / "tower.pt2", options)
    assert list(tmp_path.iterdir()) == []


def test_process_that_fails_is_reported(directory, cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    reasons, done = [], threading.Event()

    def report(reason):
        reasons.append(reason)
        done.set()

    Compilation(load_vision_model(directory), directory, largest=16).start(pytest.fail, report)
    assert done.wait(COMPILES_S)
    assert "ompiler" in reasons[0]
    assert list(cache.iterdir()) == []


def test_process_ends_with_the_model(directory, cache):
    compilation = Compilation(load_vision_model(directory), directory, largest=16)
    compilation.start(pytest.fail, pytest.fail)
    compilation.close()
    assert compilation._process.returncode == -signal.SIGKILL


def test_damaged_cache_file_is_reported_and_removed(directory, cache):
    compilation = Compilation(load_vision_model(directory), directory, 16)
    compilation.path.write_bytes(b"torn")
    with pytest.raises(CompileError):
        compilation.load()
    assert list(cache.iterdir()) == []
