"""Embeddings of texts by clients of Hugging Face's servers, of OpenAI's, and of Voyage's. Prints JSON.

Arguments: URL of the gateway, API key, image file, texts.
"""

import asyncio
import json
import sys

import numpy as np
import voyageai
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from PIL import Image

url, key, image, *texts = sys.argv[1:]

langchain = HuggingFaceEndpointEmbeddings(model="any", huggingfacehub_api_token=key)
langchain.client = InferenceClient(url, token=key)
langchain.async_client = AsyncInferenceClient(url, token=key)

llama_index = TextEmbeddingsInference("clip", base_url=url, auth_token=key)

secret = Secret.from_token(key)
tei = {"api_type": "text_embeddings_inference", "api_params": {"url": url}, "token": secret}
haystack = HuggingFaceAPITextEmbedder(**tei)
haystack_documents = HuggingFaceAPIDocumentEmbedder(**tei, progress_bar=False)
openai = {"api_base_url": f"{url}/v1", "api_key": secret, "model": "clip"}
haystack_openai = OpenAITextEmbedder(**openai)
haystack_openai_documents = OpenAIDocumentEmbedder(**openai, progress_bar=False)
documents = [Document(content=text) for text in texts]


def embeddings_of(reply):
    """Return the embeddings of Haystack's documents."""
    return [document.embedding for document in reply["documents"]]


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
        "langchain documents, asynchronous": asyncio.run(langchain.aembed_documents(texts)),
        "llama_index documents": llama_index.get_text_embedding_batch(texts),
        "llama_index query": [llama_index.get_query_embedding(text) for text in texts],
        "llama_index documents, asynchronous": asyncio.run(llama_index.aget_text_embedding_batch(texts)),
        "haystack": [haystack.run(text=text)["embedding"] for text in texts],
        "haystack documents": embeddings_of(haystack_documents.run(documents)),
        "haystack documents, asynchronous": embeddings_of(
            asyncio.run(haystack_documents.run_async(documents))
        ),
        "haystack openai": [haystack_openai.run(text=text)["embedding"] for text in texts],
        "haystack openai documents": embeddings_of(haystack_openai_documents.run(documents)),
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
