"""Checkpoints as people have them: each loads as transformers loads it, or one line says what is wrong."""

import fnmatch
import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from clip_encoder import DirectEncoder
from clip_geometry import TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_text import TextEncoder, TextTokenizer, load_text_model
from clip_vision import load_vision_model
from tests.helpers.pictures import encode, noise
from tritonclip_server.evaluation.command import EXIT_FAILED
from tritonclip_server.evaluation.command import main as evaluate
from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import CheckpointError, locate
from tritonclip_server.repository.reference import Reference
from tritonclip_server.repository.writer import PART_WRITERS

TEXTS = ["a cat", "a photo of a small dog in front of a house", "x" * 400, "1234567890"]
CPU = torch.device("cpu")
WHOLE, PICKLED = "model.safetensors", "pytorch_model.bin"
LAYER = "vision_model.encoder.layers.0."
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def change_json(directory, name, **changes):
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tower(directory, tower, **changes):
    settings = json.loads((directory / "config.json").read_text())[tower]
    change_json(directory, "config.json", **{tower: settings | changes})


def text_config(**changes):
    return lambda directory: change_tower(directory, "text_config", **changes)


def vision_config(**changes):
    return lambda directory: change_tower(directory, "vision_config", **changes)


def config(**changes):
    return lambda directory: change_json(directory, "config.json", **changes)


def tensors(change):
    """Return a form whose tensors `change` returns, or changes in place."""

    def apply(directory):
        held = load_file(directory / WHOLE)
        save_file(change(held) or held, directory / WHOLE)

    return apply


def pickled(change):
    """Return a form whose weights are a pickle of what `change` makes of the tensors."""

    def apply(directory):
        held = load_file(directory / WHOLE)
        (directory / WHOLE).unlink()
        torch.save(change(held), directory / PICKLED)

    return apply


def index(content, name="model.safetensors.index.json"):
    """Return a form whose only weights are those that an index names."""

    def apply(directory):
        (directory / WHOLE).rename(directory.parent / "outside.safetensors")
        (directory / name).write_text(content)

    return apply


def add_stale_index(directory):
    names = {name: "model-00001-of-00009.safetensors" for name in load_file(directory / WHOLE)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def pickle_shards(directory):
    held = load_file(directory / WHOLE)
    (directory / WHOLE).unlink()
    shards = dict.fromkeys(sorted(held)[::2], SHARDS[0]) | dict.fromkeys(sorted(held)[1::2], SHARDS[1])
    for shard in SHARDS:
        torch.save({name: held[name] for name in held if shards[name] == shard}, directory / shard)
    content = {"metadata": {}, "weight_map": shards}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(content))


def add_weights_of_another_library(directory):
    pickled(lambda held: held)(directory)
    save_file({"visual.proj": torch.ones(4)}, directory / "open_clip_model.safetensors")


def add_layer(held):
    return held | {
        name.replace(LAYER, "vision_model.encoder.layers.1."): held[name].clone()
        for name in held
        if name.startswith(LAYER)
    }


def resize_positions(count):
    def apply(directory):
        name = "text_model.embeddings.position_embedding.weight"
        text_config(max_position_embeddings=count)(directory)
        generator = torch.Generator().manual_seed(count)
        tensors(lambda held: held | {name: torch.randn((count, 32), generator=generator)})(directory)

    return apply


def drop_padding_token(directory):
    text_config(pad_token_id=None)(directory)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((directory / name).read_text())
        settings.pop("pad_token", None)
        (directory / name).write_text(json.dumps(settings))


def split_legacy_config(directory):
    """Write the sections as transformers 4.20 did, next to sections that they override."""
    settings = json.loads((directory / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        settings[f"{tower}_dict"] = settings[tower]
        settings[tower] = settings[tower] | {"hidden_size": 64}
    (directory / "config.json").write_text(json.dumps(settings))


def add_token(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(directory)


def adapter(directory):
    (directory / "adapter_config.json").write_text("{}")


EQUAL_FORMS = {
    "stale index next to the whole file": add_stale_index,
    "pickle": pickled(lambda held: held),
    "pickled shards": pickle_shards,
    "tied weights in a pickle": pickled(
        lambda held: held | {f"{LAYER}layer_norm2.weight": held[f"{LAYER}layer_norm1.weight"]}
    ),
    "weights of another library": add_weights_of_another_library,
    "float16": tensors(lambda held: {name: tensor.half() for name, tensor in held.items()}),
    "float64": tensors(lambda held: {name: tensor.double() for name, tensor in held.items()}),
    "more layers than config.json requires": tensors(add_layer),
    "tensors of other models": tensors(
        lambda held: held | {"text_model.extra": torch.ones(3, dtype=torch.int8)}
    ),
    "padding token null": text_config(pad_token_id=None),
    "padding token outside the vocabulary": text_config(pad_token_id=99999),
    "no padding token anywhere": drop_padding_token,
    "legacy end token": text_config(eos_token_id=2),
    "32 positions": resize_positions(32),
    "248 positions": resize_positions(248),
    "vocab.json and merges.txt": lambda directory: (directory / "tokenizer.json").unlink(),
    "sections named _dict": split_legacy_config,
    "epsilon 0.001": vision_config(layer_norm_eps=1e-3),
    "squashed images": lambda directory: (directory / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "ViTFeatureExtractor", "size": 224}'
    ),
}
REJECTED_FORMS = {
    "patch size 0": (
        vision_config(patch_size=0),
        "patch_size in vision_config of config.json is 0; it must be",
    ),
    "no heads": (
        text_config(num_attention_heads=0),
        "num_attention_heads in text_config of config.json is 0",
    ),
    "heads that do not divide the width": (
        text_config(num_attention_heads=5),
        "rejects config.json: Class valid",
    ),
    "no layers": (
        vision_config(num_hidden_layers=0),
        "num_hidden_layers in vision_config of config.json is 0",
    ),
    "a billion layers": (
        vision_config(num_hidden_layers=10**9),
        "is 1000000000; it must be a whole number from",
    ),
    "a million layers": (
        text_config(num_hidden_layers=10**6),
        "the weights have no layer text_model.encoder.la",
    ),
    "huge sizes": (
        text_config(hidden_size=1 << 20, intermediate_size=1 << 20, vocab_size=1 << 20),
        "but config.json requires [",
    ),
    "epsilon NaN": (
        vision_config(layer_norm_eps=float("nan")),
        "layer_norm_eps in vision_config of config.json",
    ),
    "epsilon null": (
        text_config(layer_norm_eps=None),
        "layer_norm_eps in text_config of config.json is None",
    ),
    "width as text": (
        vision_config(hidden_size="32"),
        "hidden_size in vision_config of config.json is 32; it must",
    ),
    "oblong images": (
        vision_config(image_size=[224, 224]),
        "image_size in vision_config of config.json is [224",
    ),
    "grey images": (vision_config(num_channels=1), "num_channels is 1; images have 3 channels"),
    "projection null": (config(projection_dim=None), "projection_dim in config.json is None; it must be"),
    "several end tokens": (
        text_config(eos_token_id=[734]),
        "eos_token_id in text_config of config.json is [734]",
    ),
    "end token null": (text_config(eos_token_id=None), "eos_token_id in text_config of config.json is None"),
    "end token of another tokenizer": (
        text_config(eos_token_id=700),
        "turns an empty text into the tokens [733, 734], which do not end with eos_token_id 700 of",
    ),
    "start token for end token": (text_config(eos_token_id=733), "which do not end with eos_token_id 733"),
    "token outside the vocabulary": (add_token, "the tokenizer has token 735, but vocab_size in text_config"),
    "truncation on the left": (
        lambda directory: change_json(directory, "tokenizer_config.json", truncation_side="left"),
        "truncation_side 'left' of the tokenizer is not supported",
    ),
    "section that is no object": (
        config(vision_config=[1]),
        "vision_config of config.json must be a JSON object",
    ),
    "config that is a list": (
        lambda path: (path / "config.json").write_text("[]"),
        "no readable config.json",
    ),
    "nested config": (
        lambda path: (path / "config.json").write_text('{"a":' * 50_000),
        "has no readable config.json: maximum recursion depth exceeded",
    ),
    "quantised": (
        config(quantization_config={"bits": 4}),
        "quantization_config in config.json is not supported",
    ),
    "other weights": (
        config(transformers_weights="a.safetensors"),
        "transformers_weights in config.json is not",
    ),
    "adapter": (adapter, "has an adapter (adapter_config.json); merge it into the weights first"),
    "index of a parent folder": (
        index('{"weight_map": {"logit_scale": "../outside.safetensors"}}'),
        "model.safetensors.index.json names the file '../outside.safetensors'; only files in the folder",
    ),
    "index of an absolute path": (
        index('{"weight_map": {"a": "/etc/x.bin"}}'),
        "names the file '/etc/x.bin'",
    ),
    "index of numbers": (index('{"weight_map": {"a": 1}}'), "names the file '1'; only files in the folder"),
    "index without files": (index('{"weight_map": {}}'), "model.safetensors.index.json has no weight_map"),
    "damaged index": (index("{", "pytorch_model.bin.index.json"), "no readable pytorch_model.bin.index.json"),
    "missing shard": (
        index('{"weight_map": {"a": "b.bin"}}', "pytorch_model.bin.index.json"),
        "has no weights: b.bin is missing, which pytorch_model.bin.index.json names",
    ),
    "whole numbers": (
        tensors(lambda held: held | {"logit_scale": torch.tensor(4)}),
        "logit_scale has the type int64; supported are float32, float16, bfloat16 and float64",
    ),
    "scale that overflows": (
        tensors(lambda held: held | {"logit_scale": torch.tensor(800.0)}),
        "a factor of inf",
    ),
    "pickle of a list": (pickled(lambda held: [1]), "pytorch_model.bin is damaged or incomplete"),
    "pickle of texts": (
        pickled(lambda held: held | {"logit_scale": "4.6"}),
        "logit_scale is no dense tensor",
    ),
    "sparse pickle": (
        pickled(lambda held: held | {"visual_projection.weight": torch.zeros(16, 32).to_sparse()}),
        "visual_projection.weight is no dense tensor",
    ),
    "pickle that grows": (
        pickled(lambda held: held | {"visual_projection.weight": torch.zeros(1, 1).expand(16, 32)}),
        "visual_projection.weight repeats its values in memory",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The towers are small, and threads wait for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copy(small_checkpoint, tmp_path):
    """A copy of the small checkpoint that the test changes."""
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint")


def embed(content, directory):
    """Return the embeddings of a picture and of TEXTS as the served models compute them."""
    for name in ("vision_encoder", "text_encoder"):
        PART_WRITERS[name](content, directory)
    settings = ProcessorSettings.from_dict({**content.processor, "image_processor": TORCHVISION})
    decoder = ImageDecoder(settings, ("PNG",), 10**7)
    pixels = decoder.decode(encode(picture(), "PNG"))[None]
    images = DirectEncoder(load_vision_model(directory), CPU, max_bucket=4).encode([pixels])
    settings = json.loads((directory / "text.json").read_text())
    tokenizer = TextTokenizer(directory / "tokenizer.json", settings["max_position_embeddings"])
    padding = settings["pad_token_id"]
    encoder = TextEncoder(
        load_text_model(directory), tokenizer, CPU, max_bucket=8, max_tokens=512, pad_token_id=padding
    )
    return images, encoder.encode(TEXTS)[0]


def picture():
    return noise(300, 250)


@pytest.mark.filterwarnings("ignore:Token indices sequence length")
@pytest.mark.parametrize("form", EQUAL_FORMS)
def test_embeddings_of_every_form_equal_transformers(form, copy, tmp_path):
    EQUAL_FORMS[form](copy)
    content = read_checkpoint(locate(str(copy)))
    images, texts = embed(content, tmp_path)
    reference = Reference(copy)
    expected = reference.forward(reference.pixel_values([picture()]), TEXTS)
    np.testing.assert_allclose(images, expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(texts, expected.text_embeds, atol=1e-5)
    assert content.logit_scale == pytest.approx(reference.logit_scale)


@pytest.mark.parametrize("form", REJECTED_FORMS)
def test_checkpoint_that_cannot_be_served_is_reported_in_one_line(form, copy):
    change, message = REJECTED_FORMS[form]
    change(copy)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(locate(str(copy)))
    text = str(caught.value)
    assert text.startswith(f"'{copy}'")
    assert message in text
    assert "\n" not in text
    assert len(text) - len(str(copy)) < 400


def test_evaluation_rejects_a_checkpoint_that_transformers_would_complete_at_random(copy, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "1.png").touch()
    tensors(lambda held: {name: held[name] for name in held if name != "visual_projection.weight"})(copy)
    done = CliRunner().invoke(evaluate, [str(tmp_path / "images"), "--checkpoint", str(copy)])
    assert done.exit_code == EXIT_FAILED
    assert "1 tensors are missing, the first is visual_projection.weight" in done.stderr


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder whose files are those of a repository on the hub; downloads copy from it."""
    remote, snapshot = tmp_path / "remote", tmp_path / "0123abcd"

    def snapshot_download(source, revision, allow_patterns):
        assert revision in (None, snapshot.name)
        snapshot.mkdir(exist_ok=True)
        for path in remote.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, snapshot / path.name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return remote


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        (lambda directory: None, {WHOLE}),
        (pickled(lambda held: held), {PICKLED}),
        (add_weights_of_another_library, {PICKLED}),
        (pickle_shards, set(SHARDS)),
        (add_stale_index, {WHOLE}),
    ],
    ids=["whole", "pickle", "weights of another library", "pickled shards", "stale index"],
)
def test_hub_download_holds_the_weights_that_transformers_takes(form, weights, small_checkpoint, hub):
    shutil.copytree(small_checkpoint, hub)
    form(hub)
    save_file({"a": torch.ones(1)}, hub / "model.fp16.safetensors")
    files = locate("someone/clip")
    assert {path.name for path in files.weights} == weights
    assert files.revision == "0123abcd"
    downloaded = {path.name for path in files.directory.iterdir() if path.suffix in (".safetensors", ".bin")}
    assert downloaded == weights
    assert read_checkpoint(files).tensors
