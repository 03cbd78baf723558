"""Trains a CLIP on pictures that are drawn while it learns: batches, loss, optimizers, the loop."""

from __future__ import annotations

import functools
import math
import time

import click
import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tritonclip_server.demo.captions import describes, write_caption
from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import sample_training_scene

SEED = 20
STEPS = 2300
BATCH = 96
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 40
MAX_LOGIT_SCALE = 100.0

Batch = tuple[torch.Tensor, list[str], torch.Tensor]


class DrawnBatches(torch.utils.data.Dataset):
    """Batch i is drawn from (seed, i) alone: uint8 [n, 3, 224, 224], n captions, truth bool [n, n].

    `truth[i, j]` says whether caption j is true of picture i.
    """

    def __init__(self, seed: int, steps: int) -> None:
        """Plans `steps` batches of `BATCH` pictures."""
        self.seed, self.steps = seed, steps

    def __len__(self) -> int:
        """The number of batches."""
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        """Draws one batch."""
        rng = np.random.default_rng((self.seed, step))
        plain = rng.random(BATCH) < plain_share(step, self.steps)
        scenes = [sample_training_scene(rng, bool(p)) for p in plain]
        pixels = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
        captions = [write_caption(scene, rng) for scene in scenes]
        truth = torch.from_numpy(describes(captions, scenes))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), [c.text for c in captions], truth


def sample_texts(seed: int, count: int) -> list[str]:
    """Training captions without their pictures, to train the tokenizer on."""
    rng = np.random.default_rng((seed, 1 << 20))
    return [write_caption(sample_training_scene(rng), rng).text for _ in range(count)]


def sample_pixels(seed: int, count: int) -> torch.Tensor:
    """Training pictures without captions: uint8 [count, 3, 224, 224]."""
    rng = np.random.default_rng((seed, 1 << 21))
    pixels = np.stack([np.asarray(draw(sample_training_scene(rng), rng)) for _ in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 3, h, w] to CLIP's float32 pixel values, as its image processor has them."""
    mean = 255 * torch.tensor(OPENAI_CLIP_MEAN).view(1, 3, 1, 1)
    std = 255 * torch.tensor(OPENAI_CLIP_STD).view(1, 3, 1, 1)
    return pixels.float().sub_(mean).div_(std)


def contrastive_loss(logits_per_image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross entropy, with every true caption of the batch as an equal target.

    With one true caption a picture this is CLIP's own loss.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
    figure 3.

    Args:
        logits_per_image: float32 [n, n], logit scale times cosine.
        truth: bool [n, n], each row and each column holding at least one True.

    Returns:
        The loss, a float32 scalar.
    """
    targets = truth.float()
    per_image = torch.nn.functional.cross_entropy(logits_per_image, targets / targets.sum(1, keepdim=True))
    targets = targets.t()
    per_text = torch.nn.functional.cross_entropy(logits_per_image.t(), targets / targets.sum(1, keepdim=True))
    return (per_image + per_text) / 2


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))


def plain_share(step: int, steps: int) -> float:
    """Part of a batch that is bright on black: all of it at first, none in the second half."""
    return min(1.0, max(0.0, (0.5 - step / steps) / 0.42))


def build_optimizers(model: CLIPModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of both transformers, AdamW for all else.

    Muon gives every direction of a matrix an equal step, so that the easy colours do not drown the shapes.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".encoder." in name and p.ndim == 2]
    rest = [p for name, p in named if not (".encoder." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(model: CLIPModel, tokenizer: CLIPTokenizer, steps: int, seed: int) -> None:
    """Trains the model in place for a fixed number of steps; logs the mean loss of every 50."""
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
