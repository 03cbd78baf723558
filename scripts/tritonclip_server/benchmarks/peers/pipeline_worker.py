"""A peer: the transformers pipeline on image files. Arguments: MODEL LABELS."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image
from transformers import pipeline

from tritonclip_server.benchmarks.peers.settings import load_image_processor, precision
from tritonclip_server.benchmarks.peers.worker import batches, serve, timed


def main(model: str, labels_file: str) -> None:
    """Load the pipeline, and answer commands."""
    labels = json.loads(Path(labels_file).read_text(encoding="utf-8"))
    classify = pipeline(
        "zero-shot-image-classification",
        model=model,
        image_processor=load_image_processor(model),
        dtype=precision(),
    )

    def run(files: list[bytes], batch: int, seconds: float) -> dict[str, float]:
        groups = batches(files, batch)

        def classify_batch() -> None:
            images = [Image.open(io.BytesIO(file)) for file in next(groups)]
            classify(images, candidate_labels=labels, batch_size=batch)

        return timed(classify_batch, batch, seconds)

    serve({"pipeline": run})


if __name__ == "__main__":
    main(*sys.argv[1:])
