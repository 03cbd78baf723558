"""The compiled vision tower: equal to the tower, kept on disk, done without where nothing compiles."""

import numpy as np
import pytest
import torch

from clip_compile import CompileError, fingerprint, load_or_compile
from clip_encoder import HostEncoder
from clip_vision import load_vision_model

CPU = torch.device("cpu")
NO_COMPILER = {"cpp.cxx": ("no-such-compiler",)}

# torch.export and the compilers below it use what Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def directory(demo_repository):
    return demo_repository / "vision_encoder" / "1"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_compiled_once_it_is_loaded_without_a_compiler(directory, cache):
    model = load_vision_model(directory)
    load_or_compile(model, directory, largest=16)
    (kept,) = cache.iterdir()
    with torch._inductor.config.patch(NO_COMPILER):
        compiled = load_or_compile(model, directory, largest=16)
    assert list(cache.iterdir()) == [kept]
    pixels = np.random.default_rng(1).integers(0, 256, (27, 3, 224, 224), dtype=np.uint8)
    expected = HostEncoder(model, CPU, 16).encode([pixels])
    found = HostEncoder(compiled, CPU, 16).encode([pixels])  # in passes of 16, 8, 2 and 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_a_compiler_the_error_says_so_and_leaves_nothing_behind(directory, cache):
    with (
        torch._inductor.config.patch(NO_COMPILER),
        pytest.raises(CompileError, match="no-such-compiler|[Cc]ompiler"),
    ):
        load_or_compile(load_vision_model(directory), directory, largest=16)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_is_an_error_and_is_removed(directory, cache):
    model = load_vision_model(directory)
    cache.mkdir()
    (cache / f"vision-{fingerprint(model, directory, 16)}.pt2").write_bytes(b"torn")
    with pytest.raises(CompileError):
        load_or_compile(model, directory, largest=16)
    assert list(cache.iterdir()) == []


def test_what_is_compiled_belongs_to_precision_and_sizes(directory):
    model = load_vision_model(directory)
    keys = {fingerprint(model, directory, largest) for largest in (16, 64)}
    model.set_precision(torch.bfloat16)
    keys.add(fingerprint(model, directory, 64))
    assert len(keys) == 3


def test_no_place_to_keep_it_is_an_error(directory, monkeypatch):
    monkeypatch.setenv("TRITONCLIP_CACHE_DIR", "/proc/no-such-place")
    with pytest.raises(CompileError):
        load_or_compile(load_vision_model(directory), directory, largest=16)
