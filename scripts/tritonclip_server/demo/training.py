"""Train the demo checkpoint, a small CLIP, on pictures that are drawn during training."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

import click
import numpy as np
import torch
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tritonclip_server.demo.captions import describes, write_caption
from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.model import build_model, start_from_patches
from tritonclip_server.demo.scenes import COLOURS, SHAPES, sample_training_scene
from tritonclip_server.demo.tokenizer import save_tokenizer, train_tokenizer

SEED = 20
STEPS = 2300
BATCH = 96
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 40
MAX_LOGIT_SCALE = 100.0
THREADS = 2

Batch = tuple[torch.Tensor, list[str], torch.Tensor]


class DrawnBatches(torch.utils.data.Dataset):
    """Batches of uint8 [n, 3, 224, 224], n captions, and truth bool [n, n].

    Batch i depends on (seed, i) only. `truth[i, j]` is True if caption j is true of picture i.
    """

    def __init__(self, seed: int, steps: int) -> None:
        """Plan `steps` batches of `BATCH` pictures."""
        self.seed, self.steps = seed, steps

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        """Draw one batch."""
        rng = np.random.default_rng((self.seed, step))
        plain = rng.random(BATCH) < plain_share(step, self.steps)
        scenes = [sample_training_scene(rng, bool(p)) for p in plain]
        pixels = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
        captions = [write_caption(scene, rng) for scene in scenes]
        truth = torch.from_numpy(describes(captions, scenes))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), [c.text for c in captions], truth


def sample_texts(seed: int, count: int) -> list[str]:
    """Return training captions without pictures, for the training of the tokenizer."""
    rng = np.random.default_rng((seed, 1 << 20))
    return [write_caption(sample_training_scene(rng), rng).text for _ in range(count)]


def sample_pixels(seed: int, count: int) -> torch.Tensor:
    """Draw training pictures without captions: uint8 [count, 3, 224, 224]."""
    rng = np.random.default_rng((seed, 1 << 21))
    pixels = np.stack([np.asarray(draw(sample_training_scene(rng), rng)) for _ in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 [n, 3, h, w] to float32 pixel values, like CLIP's image processor."""
    mean = 255 * torch.tensor(OPENAI_CLIP_MEAN).view(1, 3, 1, 1)
    std = 255 * torch.tensor(OPENAI_CLIP_STD).view(1, 3, 1, 1)
    return pixels.float().sub_(mean).div_(std)


def contrastive_loss(logits_per_image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return CLIP's symmetric cross entropy, with every true caption of the batch as an equal target.

    If each picture has one true caption, this is the loss of CLIP.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
    figure 3.

    Args:
        logits_per_image: float32 [n, n], logit scale times cosine.
        truth: bool [n, n], with at least one True in each row and each column.

    Returns:
        The loss, a float32 scalar.
    """
    targets = truth.float()
    per_image = torch.nn.functional.cross_entropy(logits_per_image, targets / targets.sum(1, keepdim=True))
    targets = targets.t()
    per_text = torch.nn.functional.cross_entropy(logits_per_image.t(), targets / targets.sum(1, keepdim=True))
    return (per_image + per_text) / 2


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the factor of a linear warm-up that is followed by half a cosine down to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))


def plain_share(step: int, steps: int) -> float:
    """Return the share of a batch that is bright on black: 1 at first, 0 in the second half."""
    return min(1.0, max(0.0, (0.5 - step / steps) / 0.42))


def build_optimizers(model: CLIPModel) -> list[torch.optim.Optimizer]:
    """Create Muon for the matrices of both transformers, and AdamW for all other parameters.

    Muon takes steps of equal size in all directions of a matrix, so easy colours do not dominate shapes.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".encoder." in name and p.ndim == 2]
    rest = [p for name, p in named if not (".encoder." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(model: CLIPModel, tokenizer: CLIPTokenizer, steps: int, seed: int) -> None:
    """Train the model in place for a fixed number of steps, and print the mean loss of every 50."""
    batches = torch.utils.data.DataLoader(DrawnBatches(seed, steps), batch_size=None, num_workers=1)
    optimizers = build_optimizers(model)
    factor = functools.partial(learning_rate_factor, steps=steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    start_s, losses = time.perf_counter(), []
    for step, (pixels, texts, truth) in enumerate(batches, 1):
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=normalise(pixels), **tokens).logits_per_image
        loss = contrastive_loss(logits.float(), truth)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            scale, spent_s = model.logit_scale.exp().item(), time.perf_counter() - start_s
            mean = np.mean(losses[-50:])
            click.echo(f"step {step}/{steps}  loss {mean:.3f}  logit scale {scale:.1f}  {spent_s:.0f} s")


@click.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--steps", default=STEPS, show_default=True, help=f"Training steps of {BATCH} pictures.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of weights, pictures and captions.")
def main(output: Path, steps: int, seed: int) -> None:
    """Train the demo CLIP, and write it to --output in Hugging Face format as float16."""
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
    (output / "model.safetensors").chmod(0o644)  # safetensors writes it with mode 0600
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
