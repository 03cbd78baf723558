"""Trains the demo checkpoint: a small CLIP, on pictures that are drawn while it learns.

python scripts/demo/train.py --output scripts/demo/checkpoint
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from transformers import CLIPImageProcessorPil

from tritonclip_server.demo.model import build_model, start_from_patches
from tritonclip_server.demo.scenes import COLOURS, SHAPES
from tritonclip_server.demo.tokenizer import save_tokenizer, train_tokenizer
from tritonclip_server.demo.training import BATCH, SEED, STEPS, normalise, sample_pixels, sample_texts, train

THREADS = 2


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder.")
@click.option("--steps", default=STEPS, show_default=True, help=f"Training steps of {BATCH} pictures.")
@click.option("--seed", default=SEED, show_default=True)
def main(output: Path, steps: int, seed: int) -> None:
    """Train the demo CLIP and write it to --output in Hugging Face format, float16."""
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    tokenizer = train_tokenizer([*COLOURS, *SHAPES, *sample_texts(seed, 20_000)])
    model = build_model(tokenizer)
    start_from_patches(model, normalise(sample_pixels(seed, 1500)))
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{parameters:,} parameters, vocabulary of {len(tokenizer)}")
    train(model, tokenizer, steps, seed)
    model.half().save_pretrained(output)
    CLIPImageProcessorPil().save_pretrained(output)
    save_tokenizer(tokenizer, output)
    (output / "model.safetensors").chmod(0o644)  # it is written as 0o600
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
