"""Calls of infinity's own client, which print their results as one JSON object.

A process of another environment runs this file: URL, KEY, and the path and data: URI of an image.
"""

import json
import sys

from infinity_client import AuthenticatedClient
from infinity_client.api.default import classify, embeddings, embeddings_image, health, models
from infinity_client.models import (
    ClassifyInput,
    ImageEmbeddingInput,
    OpenAIEmbeddingInputImage,
    OpenAIEmbeddingInputText,
)
from infinity_client.vision_client import InfinityVisionAPI
from PIL import Image

URL, KEY, IMAGE, URI = sys.argv[1:]
TEXTS = ["a red circle", "größer"]
IMAGES = {"input": [URI], "modality": "image"}
vision = InfinityVisionAPI(URL, model="clip")
with AuthenticatedClient(URL, KEY, raise_on_unexpected_status=True) as client:

    def vectors(route, body):
        return [one.embedding for one in route.sync(client=client, body=body).data]

    json.dump(
        {
            "health": health.sync(client=client).to_dict()["status"],
            "capabilities": models.sync(client=client).data[0].capabilities,
            "labels": classify.sync(client=client, body=ClassifyInput(input_=[URI])).to_dict()["data"][0],
            "texts": vectors(embeddings, OpenAIEmbeddingInputText(input_=TEXTS)),
            "images": vectors(embeddings, OpenAIEmbeddingInputImage.from_dict(IMAGES)),
            "embeddings_image": vectors(embeddings_image, ImageEmbeddingInput(input_=[URI])),
            "vision": [
                found[0].tolist()
                for future in (
                    vision.embed("clip", TEXTS),
                    vision.image_embed("clip", [Image.open(IMAGE)]),
                )
                for found in future.result()[0]
            ],
        },
        sys.stdout,
    )
vision.tp.shutdown()
