"""A peer: LitServe, optimised as far as users do by hand. Arguments: MODEL WORKERS PORT.

- Requests are batched.
- A thread pool decodes images, and resizes and crops them with Pillow as `CLIPImageProcessorPil` does.
- Label embeddings are cached, so a request runs the vision tower only.
- The precision is bfloat16 if the CPU has instructions for it.
- Several workers share the cores equally.
"""

import io
import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import litserve as ls
import numpy as np
import torch
from fastapi import Request, UploadFile
from PIL import Image, ImageOps
from starlette.datastructures import FormData
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from tritonclip_server.benchmarks.peers.settings import precision

MAX_BATCH_SIZE = 16
BATCH_TIMEOUT_S = 0.02
TEMPLATE = "This is a photo of {}."


class ClassifierAPI(ls.LitAPI):
    """Zero-shot classification of one image per request."""

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
        self.path, self.threads = model, threads

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        torch.set_num_threads(self.threads)
        self.dtype = getattr(torch, precision())
        self.model = CLIPModel.from_pretrained(self.path, dtype=self.dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.path)
        processor = CLIPImageProcessorPil.from_pretrained(self.path)
        self.edge, self.crop = processor.size["shortest_edge"], processor.crop_size["height"]
        self.mean = torch.tensor(processor.image_mean).view(3, 1, 1) * 255
        self.std = torch.tensor(processor.image_std).view(3, 1, 1) * 255
        self.pool = ThreadPoolExecutor(self.threads)
        self.label_embeds: dict[str, torch.Tensor] = {}

    def decode_request(self, request: Request) -> tuple[Future[np.ndarray], str]:
        """Read a multipart form, and start decoding in the pool, so that a batch is decoded in parallel."""
        form = cast(FormData, request)
        image = cast(UploadFile, form["image"]).file.read()
        return self.pool.submit(self._pixels, image), str(form["labels"])

    def batch(self, inputs: list[Any]) -> tuple[torch.Tensor, list[str]]:
        """Return uint8 [n, 3, size, size] and the labels of each request."""
        pixels, labels = zip(*inputs, strict=True)
        return torch.from_numpy(np.stack([future.result() for future in pixels])), list(labels)

    @torch.inference_mode()
    def predict(self, batch: tuple[torch.Tensor, list[str]]) -> list[list[float]]:
        """Return the scores of the labels for each image."""
        pixels, labels = batch
        normalised = ((pixels - self.mean) / self.std).to(self.dtype)
        embeds = self.model.get_image_features(pixel_values=normalised).pooler_output.float()
        embeds = embeds / embeds.norm(dim=-1, keepdim=True)
        scale = self.model.logit_scale.exp().float()
        return [
            (scale * embed @ self._embed_labels(texts).T).softmax(-1).tolist()
            for embed, texts in zip(embeds, labels, strict=True)
        ]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Return one result per request."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Return the result as JSON."""
        return {"scores": output}

    def _pixels(self, image: bytes) -> np.ndarray:
        decoded = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGB")
        scale = self.edge / min(decoded.size)
        width, height = (max(self.edge, int(length * scale)) for length in decoded.size)
        resized = decoded.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        return np.asarray(resized.crop((left, top, left + self.crop, top + self.crop))).transpose(2, 0, 1)

    def _embed_labels(self, labels: str) -> torch.Tensor:
        if labels not in self.label_embeds:
            texts = [TEMPLATE.format(label) for label in json.loads(labels)]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
            embeds = self.model.get_text_features(**tokens).pooler_output.float()
            self.label_embeds[labels] = embeds / embeds.norm(dim=-1, keepdim=True)
        return self.label_embeds[labels]


if __name__ == "__main__":
    model, workers, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cores = len(os.sched_getaffinity(0))
    api = ClassifierAPI(model, max(1, cores // workers))
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=600)
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning"
    )
