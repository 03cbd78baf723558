"""Embeddings of texts by clients of Hugging Face's servers, and by Voyage's. Prints JSON.

Arguments: URL of the gateway, API key, image file, texts.
"""

import json
import sys

import numpy as np
import voyageai
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPITextEmbedder
from huggingface_hub import InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from PIL import Image

url, key, image, *texts = sys.argv[1:]

langchain = HuggingFaceEndpointEmbeddings(model="any", huggingfacehub_api_token=key)
langchain.client = InferenceClient(url, token=key)

llama_index = TextEmbeddingsInference("clip", base_url=url, auth_token=key)

haystack = HuggingFaceAPITextEmbedder(
    api_type="text_embeddings_inference", api_params={"url": url}, token=Secret.from_token(key)
)

voyage = voyageai.Client(key, base_url=f"{url}/v1")
picture = Image.open(image)


def error_of(call):
    """Return the name and the text of the error that a call raises."""
    try:
        return [None, str(call())]
    except voyageai.error.VoyageError as error:
        return [type(error).__name__, str(error)]


json.dump(
    {
        "langchain documents": langchain.embed_documents(texts),
        "langchain query": [langchain.embed_query(text) for text in texts],
        "llama_index documents": llama_index.get_text_embedding_batch(texts),
        "llama_index query": [llama_index.get_query_embedding(text) for text in texts],
        "haystack": [haystack.run(text=text)["embedding"] for text in texts],
        "voyage texts": np.array(voyage.embed(texts, model="clip").embeddings).tolist(),
        "voyage inputs": voyage.multimodal_embed([[text] for text in texts], model="clip").embeddings,
        "voyage image": voyage.multimodal_embed([[picture]], model="clip").embeddings,
        "voyage int8": np.array(
            voyage.multimodal_embed([texts[:1]], model="clip", output_dtype="int8").embeddings
        ).tolist(),
        "voyage texts int8": np.array(
            voyage.embed(texts[:1], model="clip", output_dtype="int8").embeddings
        ).tolist(),
        "voyage error": error_of(lambda: voyage.multimodal_embed([texts], model="clip")),
    },
    sys.stdout,
    default=float,
)
