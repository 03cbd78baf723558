"""A peer: FastAPI around the transformers pipeline, as users write it. Arguments: MODEL PORT."""

import io
import json
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form
from PIL import Image
from transformers import pipeline

from tritonclip_server.benchmarks.peers.settings import load_image_processor, precision

model, port = sys.argv[1:]
classifier = pipeline(
    "zero-shot-image-classification",
    model=model,
    image_processor=load_image_processor(model),
    dtype=precision(),
)
app = FastAPI()


@app.get("/health")
def health() -> str:
    """Return 200 once the model is loaded."""
    return "ok"


@app.post("/predict")
def predict(image: Annotated[bytes, File()], labels: Annotated[str, Form()]) -> list[dict[str, Any]]:
    """Rank the labels, a JSON list, for one image file."""
    return classifier(Image.open(io.BytesIO(image)), candidate_labels=json.loads(labels))


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
