"""The towers compared with transformers' CLIPModel, on small random checkpoints of several kinds."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clip_common.cpu import available_cores, cpu_has_bfloat16
from clip_common.parameters import Parameters
from clip_common.tower import choose_precision, set_up_torch
from clip_encoder import DirectEncoder
from clip_text import TextEncoder, TextTokenizer, load_text_model, text_passes
from clip_vision import load_vision_model
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import locate
from tritonclip_server.repository.writer import PART_WRITERS

TEXTS = [
    "a cat",
    "a photo of a small dog in front of a house",
    "Ünïcödé 中文 🙂",
    "x" * 400,
    "a <|endoftext|> b",
    "<|startoftext|>",
    "don't   stop",
    "1234567890",
]
CPU = torch.device("cpu")
SIDE = 56
CHECKPOINTS = {
    "openai": {},
    "gelu, 14 px patches": {
        "vision_config": {"hidden_act": "gelu", "patch_size": 14},
        "text_config": {"hidden_act": "gelu"},
    },
    "legacy end token": {"text_config": {"eos_token_id": 2}},
    "other projection": {"projection_dim": 40, "text_config": {"layer_norm_eps": 1e-3}},
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def model(request, tmp_path_factory):
    """A transformers model, and a directory with its parts in the form that the models load."""
    changes = CHECKPOINTS[request.param]
    ids = CLIPConfig.from_pretrained(DEMO_CHECKPOINT).text_config
    small = {"num_hidden_layers": 2, "num_attention_heads": 4}
    special = {
        name: getattr(ids, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    }
    text = small | special | {"hidden_size": 64, "intermediate_size": 96} | changes.get("text_config", {})
    sizes = {"hidden_size": 48, "intermediate_size": 80, "image_size": SIDE, "patch_size": 28}
    vision = small | sizes | changes.get("vision_config", {})
    torch.manual_seed(3)
    reference = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=changes.get("projection_dim", 32))
    ).eval()
    directory = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(directory)
    AutoTokenizer.from_pretrained(DEMO_CHECKPOINT).save_pretrained(directory)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessorPil.from_pretrained(DEMO_CHECKPOINT, **size).save_pretrained(directory)
    for name in ("vision_encoder", "text_encoder"):
        PART_WRITERS[name](read_checkpoint(locate(str(directory))), directory)
    return reference, directory


def cosines(ours, theirs):
    theirs = theirs / np.linalg.norm(theirs, axis=-1, keepdims=True)
    return (ours * theirs).sum(axis=-1)


@torch.inference_mode()
def reference_images(reference, directory, pixels):
    processor = CLIPImageProcessorPil.from_pretrained(directory)
    values = processor(images=list(pixels), return_tensors="pt", input_data_format="channels_first")
    return reference.get_image_features(**values).pooler_output.numpy()


@torch.inference_mode()
def reference_texts(reference, directory, texts):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    return reference.get_text_features(**tokens).pooler_output.numpy(), [
        len(tokenizer(text).input_ids) for text in texts
    ]


def text_encoder(directory, max_bucket=64, max_tokens=1024):
    tower = load_text_model(directory)
    tokenizer = TextTokenizer(directory / "tokenizer.json", 77)
    return TextEncoder(tower, tokenizer, CPU, max_bucket, max_tokens, pad_token_id=0)


@pytest.fixture
def pixels():
    return np.random.default_rng(5).integers(0, 256, (7, 3, SIDE, SIDE), dtype=np.uint8)


def test_image_embeddings_equal_transformers(model, pixels):
    reference, directory = model
    embeds = DirectEncoder(load_vision_model(directory), CPU, max_bucket=4).encode([pixels[:2], pixels[2:]])
    assert embeds.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=-1), 1, atol=1e-6)
    assert cosines(embeds, reference_images(reference, directory, pixels)).min() > 1 - 1e-6


@pytest.mark.filterwarnings("ignore:Token indices sequence length")
def test_text_embeddings_equal_transformers(model):
    reference, directory = model
    embeds, counts = text_encoder(directory).encode(TEXTS)
    expected, expected_counts = reference_texts(reference, directory, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=-1), 1, atol=1e-6)
    assert cosines(embeds, expected).min() > 1 - 1e-6
    assert counts == expected_counts
    assert max(counts) > 77


@pytest.mark.parametrize("model", ["openai"], indirect=True)
@pytest.mark.parametrize(("max_bucket", "max_tokens"), [(4, 1024), (64, 100), (64, 1)])
def test_text_embedding_does_not_depend_on_its_pass(model, max_bucket, max_tokens):
    _, directory = model
    together, _ = text_encoder(directory, max_bucket, max_tokens).encode(TEXTS)
    alone = np.concatenate([text_encoder(directory).encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("limit", [5, 32, 77, 248])
def test_tokens_and_their_number_before_truncation_equal_transformers(limit):
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    texts = [*TEXTS, "word " * 200, "1" * 1000, "\u0130" * 300]
    expected = tokenizer(texts, truncation=True, max_length=limit).input_ids
    whole = tokenizer(texts, truncation=True, max_length=10_000).input_ids
    found = TextTokenizer(DEMO_CHECKPOINT / "tokenizer.json", limit)(texts)
    assert [one.ids.tolist() for one in found] == expected
    assert [one.total for one in found] == list(map(len, whole))


def test_passes_of_texts_hold_all_of_them_and_are_bounded():
    lengths = [2, 2, 3, 10, 10, 11, 40, 200]
    passes = [lengths[part] for part in text_passes(lengths, max_texts=3, max_tokens=40)]
    assert passes == [[2, 2, 3], [10, 10, 11], [40], [200]]
    assert list(text_passes([], 3, 40)) == []


@pytest.mark.parametrize("model", ["openai", "gelu, 14 px patches"], indirect=True)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close_to_float32(model, pixels, precision):
    reference, directory = model
    dtype = choose_precision(precision, CPU, exact_on_cpu=False)
    vision, text = load_vision_model(directory), load_text_model(directory)
    vision.set_precision(dtype)
    text.set_precision(dtype)
    assert vision.tower.layers[0].fc1.weight.dtype is dtype
    images = DirectEncoder(vision, CPU, 8).encode([pixels])
    assert images.dtype == np.float32
    assert cosines(images, reference_images(reference, directory, pixels)).min() > 0.9999
    tokenizer = TextTokenizer(directory / "tokenizer.json", 77)
    texts, _ = TextEncoder(text, tokenizer, CPU, 8, 1024, pad_token_id=0).encode(TEXTS)
    assert cosines(texts, reference_texts(reference, directory, TEXTS)[0]).min() > 0.9999


def test_auto_precision_is_float16_on_a_gpu():
    gpu = torch.device("cuda", 0)
    assert choose_precision("auto", gpu, exact_on_cpu=False) is torch.float16
    assert choose_precision("auto", gpu, exact_on_cpu=True) is torch.float16
    assert choose_precision("float32", gpu, exact_on_cpu=False) is torch.float32


def test_auto_precision_on_a_cpu_is_bfloat16_only_if_supported_and_not_exact():
    fast = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    assert choose_precision("auto", CPU, exact_on_cpu=False) is fast
    assert choose_precision("auto", CPU, exact_on_cpu=True) is torch.float32


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("0", available_cores())])
def test_threads_and_precision_are_set_from_the_parameters(monkeypatch, wanted, threads):
    set_threads = []
    monkeypatch.setattr(torch, "set_num_threads", set_threads.append)
    texts = {"precision": "float16", "threads": wanted}
    parameters = Parameters({"parameters": {name: {"string_value": text} for name, text in texts.items()}})
    instance = {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
    assert set_up_torch(instance, parameters, exact_on_cpu=False) == (CPU, torch.float16)
    assert set_threads == [threads]


def test_cudnn_attention_is_off_on_a_gpu(monkeypatch):
    switched = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    threads = str(torch.get_num_threads())
    values = {"precision": {"string_value": "auto"}, "threads": {"string_value": threads}}
    for kind, expected in (("CPU", []), ("GPU", [False])):
        args = {"model_instance_kind": kind, "model_instance_device_id": "0"}
        set_up_torch(args, Parameters({"parameters": values}), exact_on_cpu=True)
        assert switched == expected
