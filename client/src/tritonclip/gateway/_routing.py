"""How a route is described in the OpenAPI document: its bodies, its answer, and the errors of all routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from tritonclip import __version__
from tritonclip.gateway import _schemas as schemas

BODIES = (
    schemas.ClassifyRequest,
    schemas.SimilarityRequest,
    schemas.EmbeddingsRequest,
    schemas.NlpRequest,
    schemas.SearchRequest,
    schemas.ErrorAnswer,
)
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
ERRORS: dict[int, dict[str, Any]] = {
    400: {"description": "The request is wrong; the message says what, where, and what to do."},
    401: {"description": "The API key is missing or not valid."},
    404: {"description": "There is no such model, or no such thing."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is of another type, or compressed."},
    429: {"description": "The rate limit of this key or address is reached.", "headers": RETRY_AFTER},
    500: {"description": "Inference failed; report it with the X-Request-ID."},
    503: {"description": "Overloaded, or the server is not there; try again later.", "headers": RETRY_AFTER},
    504: {"description": "No answer within the deadline."},
}
DESCRIPTION = """Zero-shot image classification, and embeddings of images and texts in one space, by CLIP on a
Triton server.

Every answer carries `X-Request-ID`: the caller's own, if it sent one of at most 64 letters, digits, `.`, `_`
and `-`, or a new one. `X-Timeout-S` shortens the deadline of a request; whoever hangs up ends it. Errors have
the body `{"error": {"message", "type", "param", "code"}}`."""


def describe(
    answer: type[BaseModel],
    *,
    json: type[BaseModel] | None = None,
    form: tuple[type[BaseModel] | None, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of a route that reads its body itself.

    Args:
        answer: Of status 200.
        json: The body as JSON.
        form: The fields of the body as a form, and the name of the field of its image files.
    """
    content: dict[str, Any] = {}
    if form:
        content["multipart/form-data"] = {"schema": _form_schema(*form)}
    if json:
        content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{json.__name__}"}}
    return {
        "response_model": answer,
        "responses": {status: {"model": schemas.ErrorAnswer, **text} for status, text in ERRORS.items()},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once: FastAPI's, with the bodies that the routes read by themselves."""
    if app.openapi_schema is None:
        document: dict[str, Any] = get_openapi(
            title="tritonclip gateway", version=__version__, description=DESCRIPTION, routes=app.routes
        )
        components = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):  # of FastAPI; ours are 400
            components.pop(name, None)
        components |= schemas.definitions(*BODIES)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                for parameter in operation.get("parameters", []):  # one that is left out is not null
                    parameter["schema"] = _without_null(parameter["schema"])
        app.openapi_schema = document
    return app.openapi_schema


def _form_schema(fields: type[BaseModel] | None, image_field: str) -> dict[str, Any]:
    """What JSON calls null is a field left out of a form, and a list a field that is given several times."""
    schema = fields.model_json_schema() if fields else {}
    properties = {name: _without_null(entry) for name, entry in schema.get("properties", {}).items()}
    properties[image_field] = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "Encoded image files; the field is repeated for several.",
    }
    return {
        "type": "object",
        "properties": properties,
        "required": [image_field, *schema.get("required", [])],
    }


def _without_null(entry: dict[str, Any]) -> dict[str, Any]:
    options: list[dict[str, Any]] = [
        option for option in entry.get("anyOf", []) if option != {"type": "null"}
    ]
    if not options:
        return entry
    kept: dict[str, Any] = {key: value for key, value in entry.items() if key not in ("anyOf", "default")}
    return kept | options[0]
