"""Embeddings for the vector stores Milvus and Qdrant, and searches among them. Prints JSON.

Both stores run inside this process. Arguments: URL of the gateway, API key, folder for Milvus, data: URI of
an image, texts. The first text is also the query.
"""

import json
import sys

import openai
from milvus_model.dense import OpenAIEmbeddingFunction
from pymilvus import MilvusClient
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

url, key, folder, *inputs = sys.argv[1:]
query = inputs[1]

embed = OpenAIEmbeddingFunction(model_name="clip", api_key=key, base_url=f"{url}/v1", dimensions=512)
milvus_documents = embed.encode_documents(inputs)
milvus_query = embed.encode_queries([query])
milvus = MilvusClient(f"{folder}/milvus.db")
milvus.create_collection("inputs", dimension=embed.dim, metric_type="COSINE")
milvus.insert("inputs", [{"id": number, "vector": vector} for number, vector in enumerate(milvus_documents)])
milvus_hits = milvus.search("inputs", data=milvus_query, limit=len(inputs))[0]
milvus.close()

with openai.OpenAI(api_key=key, base_url=f"{url}/v1") as client:
    reply = client.embeddings.create(model="clip", input=inputs)
    vector = client.embeddings.create(model="clip", input=query).data[0].embedding
qdrant = QdrantClient(":memory:")
size = len(vector)
qdrant.create_collection("inputs", vectors_config=VectorParams(size=size, distance=Distance.COSINE))
qdrant.upsert("inputs", [PointStruct(id=one.index, vector=one.embedding) for one in reply.data])
qdrant_hits = qdrant.query_points("inputs", query=vector, limit=len(inputs)).points

json.dump(
    {
        "milvus documents": [vector.tolist() for vector in milvus_documents],
        "milvus query": [vector.tolist() for vector in milvus_query],
        "milvus hits": [[hit["id"], hit["distance"]] for hit in milvus_hits],
        "qdrant hits": [[hit.id, hit.score] for hit in qdrant_hits],
    },
    sys.stdout,
)
