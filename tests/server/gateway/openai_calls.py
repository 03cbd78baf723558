"""Calls of clients of OpenAI's, Jina's and NVIDIA's APIs, which print their vectors as one JSON object.

A process of another environment runs this file: URL, KEY, and the path and data: URI of an image.
"""

import json
import sys

import litellm
import tiktoken.model
from langchain_community.embeddings import jina
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.jinaai import JinaEmbedding
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

URL, KEY, IMAGE, URI = sys.argv[1:]
BASE = f"{URL}/v1"
TEXTS = ["a red circle", "größer"]
tiktoken.model.MODEL_TO_ENCODING["clip"] = "utf8_bytes"
jina.JINA_API_URL = f"{BASE}/embeddings"


def litellm_vectors(provider, inputs=TEXTS, base=BASE):
    reply = litellm.embedding(model=f"{provider}/clip", input=inputs, api_base=base, api_key=KEY)
    return [one["embedding"] for one in reply.data]


def llama_index_jina(**options):
    client = JinaEmbedding(api_key=KEY, model="clip", **options)
    client._api.api_url = f"{BASE}/embeddings"  # its base_url is ignored
    return client


langchain = OpenAIEmbeddings(base_url=BASE, api_key=KEY, model="clip")
langchain_texts = OpenAIEmbeddings(base_url=BASE, api_key=KEY, model="clip", check_embedding_ctx_length=False)
langchain_jina = jina.JinaEmbeddings(jina_api_key=KEY, model_name="clip")
llama_index = {"api_base": BASE, "api_key": KEY, "model_name": "clip"}
bits = llama_index_jina(encoding_queries="ubinary", encoding_documents="binary")

json.dump(
    {
        "litellm openai": litellm_vectors("openai"),
        "litellm nvidia_nim": litellm_vectors("nvidia_nim"),
        "litellm hosted_vllm": litellm_vectors("hosted_vllm"),
        "litellm infinity": litellm_vectors("infinity", base=URL),
        "litellm jina_ai": litellm_vectors("jina_ai", [*TEXTS, URI], f"{BASE}/embeddings"),
        "langchain openai, token arrays": langchain.embed_documents(TEXTS),
        "langchain openai, texts": langchain_texts.embed_documents(TEXTS),
        "langchain jina": langchain_jina.embed_documents(TEXTS) + langchain_jina.embed_images([IMAGE]),
        "langchain nvidia": NVIDIAEmbeddings(base_url=BASE, model="clip", nvidia_api_key=KEY).embed_documents(
            TEXTS
        ),
        "llama-index openai": OpenAIEmbedding(**llama_index).get_text_embedding_batch(TEXTS),
        "llama-index openai-like": OpenAILikeEmbedding(**llama_index).get_text_embedding_batch(TEXTS),
        "llama-index nvidia": NVIDIAEmbedding(
            base_url=BASE, api_key=KEY, model="clip"
        ).get_text_embedding_batch(TEXTS),
        "llama-index jina": llama_index_jina().get_text_embedding_batch(TEXTS)
        + llama_index_jina().get_image_embedding_batch([IMAGE]),
        "bits of llama-index jina": [
            bits.get_text_embedding(TEXTS[0]),
            bits.get_query_embedding(TEXTS[1]),
        ],
    },
    sys.stdout,
)
