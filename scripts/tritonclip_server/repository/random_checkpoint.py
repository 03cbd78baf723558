"""Full-size CLIP checkpoints with random weights: real shapes and costs, meaningless answers.

They are for load tests and comparisons with transformers when no weights are available. The tokenizer is that
of the demo checkpoint, whose vocabulary is smaller than CLIP's. The embedding table keeps CLIP's size, but a
label has more tokens than with CLIP's own tokenizer.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from tritonclip_server.paths import DEMO_CHECKPOINT

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit-b-32": {},
    "vit-b-16": {"vision_config": {"patch_size": 16}},
    "vit-l-14": {
        "projection_dim": 768,
        "vision_config": {
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
}
"""Differences from `CLIPConfig()`, which is ViT-B/32. Source: the configurations of openai/clip-*."""
TRAINED_LOGIT_SCALE = 100.0
"""Value at the end of CLIP's training, so errors of an embedding affect the scores as with real weights."""


def write_random_checkpoint(architecture: str, directory: Path, seed: int = 0) -> None:
    """Write a float32 checkpoint in Hugging Face format that transformers loads like any other.

    Args:
        architecture: A key of `ARCHITECTURES`.
        directory: Output directory; created if it does not exist.
        seed: Seed of torch's generator.
    """
    import torch  # imports of seconds, which most users do not need
    from transformers import CLIPConfig, CLIPModel

    tokenizer_config = json.loads((DEMO_CHECKPOINT / "config.json").read_text(encoding="utf-8"))[
        "text_config"
    ]
    special = {name: tokenizer_config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    changes = ARCHITECTURES[architecture]
    config = CLIPConfig(**{**changes, "text_config": {**changes.get("text_config", {}), **special}})
    torch.manual_seed(seed)
    model = CLIPModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TRAINED_LOGIT_SCALE))
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    for path in DEMO_CHECKPOINT.iterdir():
        if path.name not in ("config.json", "README.md") and path.suffix in (".json", ".txt"):
            shutil.copyfile(path, directory / path.name)
