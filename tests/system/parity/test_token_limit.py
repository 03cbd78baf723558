"""Checkpoints that read more or fewer than 77 tokens: callers learn the limit of the served one."""

import warnings

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client, TruncatedTextWarning

SAMPLE = ROOT / "scripts/demo/images/red_circle.jpg"
TOKENS = 40
"""Tokens of `TEXT`, start and end included."""
TEXT = "7 " * (TOKENS - 2)


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """Return a function that writes a small random checkpoint with this number of positions."""

    def write(positions):
        import torch
        from transformers import AutoTokenizer, CLIPConfig, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        ids = CLIPConfig.from_pretrained(DEMO_CHECKPOINT).text_config
        names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = small | {name: getattr(ids, name) for name in names} | {"max_position_embeddings": positions}
        vision = small | {"image_size": 224, "patch_size": 112}
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(
            tmp_path
        )
        AutoTokenizer.from_pretrained(DEMO_CHECKPOINT).save_pretrained(tmp_path)
        CLIPImageProcessorPil.from_pretrained(DEMO_CHECKPOINT).save_pretrained(tmp_path)
        return tmp_path

    return write


def truncated(call, *arguments):
    """Return the warnings about truncated texts of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*arguments)
    return [str(one.message) for one in caught if one.category is TruncatedTextWarning]


@pytest.mark.parametrize("positions", [32, pytest.param(248, marks=pytest.mark.slow)])
def test_callers_are_warned_at_the_limit_of_the_checkpoint(prepare, servers, tiny_checkpoint, positions):
    repository = prepare(tiny_checkpoint(positions), "--precision", "float32")
    long = "7 " * positions
    with servers.run(repository, f"a checkpoint of {positions} positions") as server:
        for url in (server.grpc_url, f"http://{server.http_url}"):
            for preprocess in ("server", "client"):
                with Client(url, preprocess=preprocess, timeout_s=600) as client:
                    cut = truncated(client.embed_texts, ["a", TEXT, long])
                    labels = truncated(client.classify, SAMPLE, ["a", long])
                expected = [f"text 2 has {positions + 2} tokens and was cut at {positions}"]
                if positions < TOKENS:
                    expected.insert(0, f"text 1 has {TOKENS} tokens and was cut at {positions}")
                assert [one.split(":")[0] for one in cut] == expected
                assert len(labels) == 1
                assert f"was cut at {positions}" in labels[0]
