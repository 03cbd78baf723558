"""The OpenAPI document: stored unchanged, and with working examples."""

import json

import pytest
from scripts.write_openapi import TARGET, document


def test_document_equals_the_stored_one():
    """After an intended change of the API, run scripts/write_openapi.py."""
    assert document() == TARGET.read_text(encoding="utf-8")


def test_document_is_served(open_gateway):
    assert open_gateway.request("GET", "/openapi.json").json() == json.loads(document())


def test_every_operation_is_documented():
    for path, methods in json.loads(document())["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["description"] and operation["tags"], (method, path)
            if "requestBody" in operation:
                statuses = {"400", "401", "408", "413", "415", "429", "503", "504"}
                assert statuses <= operation["responses"].keys(), (method, path)
                assert operation["security"], (method, path)


def fields(schema, where=""):
    for name, entry in schema.get("properties", {}).items():
        yield f"{where}.{name}", entry


def test_every_request_field_has_a_description_and_an_example():
    schemas = json.loads(document())["components"]["schemas"]
    for name in (
        "ClassifyRequest",
        "SimilarityRequest",
        "EmbeddingsRequest",
        "NlpRequest",
        "PipelineRequest",
        "EmbedRequest",
        "CohereRequest",
        "VoyageRequest",
    ):
        for where, entry in fields(schemas[name], name):
            assert entry.get("description"), where
            assert entry.get("examples"), where


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/classify", "ClassifyRequest"),
        ("/v1/similarity", "SimilarityRequest"),
        ("/v1/embeddings", "EmbeddingsRequest"),
        ("/embeddings", "EmbeddingsRequest"),
        ("/embeddings_image", "EmbeddingsImageRequest"),
        ("/classify", "ClassifyInputsRequest"),
        ("/api/predict/nlp/p/e", "NlpRequest"),
        ("/v2/models/clip_text_embedding/infer", "InferRequest"),
        ("/vectorize", "VectorizeRequest"),
        ("/", "PipelineRequest"),
        ("/models/clip", "PipelineRequest"),
        ("/embed", "EmbedRequest"),
        ("/v1/embed", "CohereRequest"),
        ("/v2/embed", "CohereRequest"),
        ("/v1/multimodalembeddings", "VoyageRequest"),
    ],
)
def test_examples_succeed(open_gateway, path, name):
    schema = json.loads(document())["components"]["schemas"][name]
    example = {key: entry["examples"][0] for key, entry in schema["properties"].items() if key != "messages"}
    reply = open_gateway.request("POST", path, json=example)
    assert reply.status == 200, reply.data
