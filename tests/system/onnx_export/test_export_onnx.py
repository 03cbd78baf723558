"""`tritonclip-server export-onnx`, and the example that reads its output without torch and transformers."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import resource
import shutil
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.image_utils import load_image

from tests.helpers.pictures import varied_images
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client
from tritonclip_server.onnx_export.check import compare, make_samples
from tritonclip_server.onnx_export.command import ExportError, _check_cosine, _check_space, main
from tritonclip_server.repository.image_settings import PILLOW
from tritonclip_server.repository.reference import Reference

pytestmark = pytest.mark.slow

READER = ROOT / "client" / "examples" / "onnx_classify.py"
IMAGE = ROOT / "scripts" / "demo" / "images" / "digit_7.jpg"
LABELS = ["a red circle", "the digit 7", "the digit 3", "ein blaues Quadrat, " + "sehr " * 80 + "groß"]
COSINES = {"float32": 0.99999, "float16": 0.9999}
SCORES = {"float32": 1e-5, "float16": 0.01}


PICTURES = (
    "photo.jpg",
    "cmyk.jpg",
    "rgba.png",
    "grey16.png",
    "palette.png",
    "exif_6.jpg",
    "1x1.png",
    "333x777.png",
)


def run_export(checkpoint: object, output: Path, *options: str) -> Result:
    """Run the command in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns of itself
        return CliRunner().invoke(main, [str(checkpoint), "--output", str(output), *options])


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of the demo checkpoint in both precisions."""
    output = tmp_path_factory.mktemp("onnx") / "demo"
    done = run_export(DEMO_CHECKPOINT, output)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("least cosine of 200 images 0.9999") == 2
    assert sorted(path.name for path in output.parent.iterdir()) == ["demo"]
    return output


@pytest.fixture(scope="session")
def reader():
    """Module of the example."""
    spec = importlib.util.spec_from_file_location("onnx_classify", READER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def clip(export: Path, reader):
    """Reader of the float32 export."""
    return reader.OnnxClip(export)


@pytest.fixture(scope="session")
def reference():
    return Reference(DEMO_CHECKPOINT, image_processor=PILLOW)


def test_settings_name_checkpoint_and_deviations(export: Path):
    settings = json.loads((export / "clip.json").read_text(encoding="utf-8"))
    assert settings["checkpoint"] == str(DEMO_CHECKPOINT)
    assert len(settings["sha256"]) == 64
    for precision, least in COSINES.items():
        errors = settings["errors"][precision]
        assert min(errors["image_cosine"], errors["text_cosine"]) >= least
        assert errors["score"] < SCORES[precision]


@pytest.mark.parametrize("precision", COSINES)
@pytest.mark.parametrize("tower", ["image_encoder", "text_encoder"])
def test_onnx_file_is_valid_and_has_a_free_batch_size(export: Path, precision: str, tower: str):
    path = export / precision / f"{tower}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import if one.domain == ""] == [("", 18)]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert model.graph.input[0].type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    content = path.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content  # the file contains no path of this machine


def test_float16_export_has_half_the_size(export: Path):
    whole, half = ((export / name / "image_encoder.onnx").stat().st_size for name in COSINES)
    assert 0.45 < half / whole < 0.6


@pytest.mark.parametrize("name", PICTURES)
def test_reader_and_transformers_prepare_equal_pixels(clip, reference, name: str):
    content = varied_images()[name]
    with Image.open(BytesIO(content)) as image:
        pixels = clip.pixel_values(image)
    with Image.open(BytesIO(content)) as image:
        expected = reference.pixel_values([load_image(image)])[0].numpy()
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize("precision", COSINES)
def test_reader_and_transformers_give_equal_embeddings(export: Path, reader, reference, precision: str):
    clip = reader.OnnxClip(export, precision)
    images = [Image.open(BytesIO(varied_images()[name])) for name in PICTURES]
    loaded = [load_image(image) for image in images]
    expected = reference.forward(reference.pixel_values(loaded), LABELS)
    assert (clip.embed_images(images) * expected.image_embeds).sum(1).min() >= COSINES[precision]
    assert (clip.embed_texts(LABELS) * expected.text_embeds).sum(1).min() >= COSINES[precision]


def test_reader_accepts_any_number_of_texts_and_tokens(clip, reference):
    for texts, words in itertools.product((1, 2, 33), (1, 70, 200)):
        given = [f"red {n} " + "circle " * (words - n % words) for n in range(texts)]
        expected = reference.embed_texts(given)
        assert (clip.embed_texts(given) * expected).sum(1).min() >= 0.99999, (texts, words)


def test_reader_and_server_give_equal_scores(clip, server):
    with Client(server.grpc_url) as client, Image.open(IMAGE) as image:
        expected = client.classify(IMAGE, LABELS[:3])
        found = clip.classify(image, LABELS[:3])
    assert [label for label, _ in found] == [one["label"] for one in expected]
    assert [score for _, score in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_reader_imports_neither_torch_nor_transformers(export: Path):
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print({'torch', 'transformers', 'tritonclip', 'onnx'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, READER, export, IMAGE, "the digit 3", "the digit 7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, _, loaded = done.stdout.splitlines()
    assert first.endswith("the digit 7")
    assert loaded == "set()"


def test_existing_export_is_kept_without_force(export: Path):
    done = run_export(DEMO_CHECKPOINT, export)
    assert done.exit_code == 1
    assert "replace it with --force" in done.stderr
    assert sorted(path.name for path in export.iterdir()) == [
        "clip.json",
        "float16",
        "float32",
        "tokenizer.json",
    ]


@pytest.mark.slow
def test_existing_export_is_replaced_with_force(export: Path, tmp_path: Path):
    copy = tmp_path / "demo"
    shutil.copytree(export, copy)
    done = run_export(DEMO_CHECKPOINT, copy, "--precision", "float32", "--force")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in copy.iterdir()) == ["clip.json", "float32", "tokenizer.json"]
    assert list(tmp_path.iterdir()) == [copy]


def test_folder_that_is_not_an_export_is_kept_even_with_force(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run_export(DEMO_CHECKPOINT, tmp_path, "--force")
    assert (done.exit_code, "is not an export" in done.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("bert", (), 1, "is a 'bert' model, not 'clip'"),
        ("no/such", (), 1, "check the name and the network"),
        (str(IMAGE.parent), (), 1, "has no weights"),
        (str(DEMO_CHECKPOINT), ("--precision", "int4"), 2, "'int4' is not one of 'float32', 'float16'"),
    ],
)
def test_invalid_argument_fails_with_one_line_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    options: tuple[str, ...],
    code: int,
    message: str,
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if source == "bert":
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
        shutil.copy(DEMO_CHECKPOINT / "model.safetensors", tmp_path / "bert")
        source = str(tmp_path / "bert")
    done = run_export(source, tmp_path / "out", *options)
    assert (done.exit_code, message in done.stderr) == (code, True), done.output
    assert not (tmp_path / "out").exists()


def test_one_wrong_embedding_fails_the_check(export: Path, reference):
    _check_cosine("float32", COSINES["float32"])
    samples = make_samples(reference)
    samples.text_embeds[3] = -samples.text_embeds[3]
    wrong = compare(export / "float32", samples)
    assert wrong.image_cosine >= COSINES["float32"]
    for cosine in (wrong.least_cosine, math.nan):
        with pytest.raises(ExportError, match=r"float32 differs from transformers.*no file was kept"):
            _check_cosine("float32", cosine)


@pytest.mark.slow
def test_full_disk_leaves_no_file(tmp_path: Path):
    with pytest.raises(ExportError, match=r"needs about 1000000000000 MB, but .* MB left; free some space"):
        _check_space(tmp_path, 1e18)
    command = [
        sys.executable,
        "scripts/export_onnx.py",
        "scripts/demo/checkpoint",
        "--output",
        tmp_path / "a" / "b",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    assert done.returncode == 1
    assert "File too large; no file was kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.slow
def test_export_that_overflows_float16_is_deleted(tmp_path: Path):
    """The weights are too large for float16."""
    checkpoint = tmp_path / "large"
    shutil.copytree(DEMO_CHECKPOINT, checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    for name in ("visual_projection.weight", "text_projection.weight"):
        tensors[name] = tensors[name].float() * 1e7
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    done = run_export(checkpoint, tmp_path / "out", "--precision", "float16")
    assert done.exit_code == 1
    assert "float16 differs from transformers" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.slow
def test_full_size_export_matches_transformers(random_checkpoint: Path, tmp_path: Path):
    """ViT-B/32 with random weights; the export takes minutes."""
    done = run_export(random_checkpoint, tmp_path / "out")
    assert done.exit_code == 0, done.output
    errors = json.loads((tmp_path / "out" / "clip.json").read_text(encoding="utf-8"))["errors"]
    assert min(errors["float32"]["image_cosine"], errors["float32"]["text_cosine"]) >= 0.99999
    assert min(errors["float16"]["image_cosine"], errors["float16"]["text_cosine"]) >= 0.999
