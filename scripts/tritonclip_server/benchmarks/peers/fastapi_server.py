"""A peer: FastAPI around the transformers pipeline, as users write it. Arguments: MODEL PORT."""

import io
import json
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form
from PIL import Image
from transformers import CLIPImageProcessorPil, pipeline

model, port = sys.argv[1:]
processor = CLIPImageProcessorPil.from_pretrained(model)
classifier = pipeline(
    "zero-shot-image-classification", model=model, image_processor=processor, dtype="float32"
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
