"""OpenAPI document of the gateway: request bodies, responses, and the errors that all routes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tritonclip import __version__
from tritonclip.gateway.payloads.schemas import ErrorAnswer

RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
ERRORS: dict[int, dict[str, Any]] = {
    400: {"description": "The request is invalid; the message says what is wrong and how to fix it."},
    401: {"description": "The API key is missing or not valid."},
    404: {"description": "The model or resource does not exist."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body is too large."},
    415: {"description": "The body has an unsupported media type or is compressed."},
    429: {"description": "The rate limit of this key or address is exceeded.", "headers": RETRY_AFTER},
    500: {"description": "Inference failed; report it with the X-Request-ID."},
    503: {"description": "The server is overloaded or unavailable; try again later.", "headers": RETRY_AFTER},
    504: {"description": "No answer within the deadline."},
}
DESCRIPTION = """Zero-shot image classification, and embeddings of images and texts in one space, by CLIP on a
Triton server.

Every response carries `X-Request-ID`. It repeats the caller's own value if that has at most 64 letters,
digits, `.`, `_` and `-`; otherwise it is generated. `X-Timeout-S` shortens the deadline of a request. If the
caller disconnects, its request is cancelled. `X-Timing` of a response says where the time of an inference
went, in milliseconds. Unless a path says otherwise, errors have the body
`{"error": {"message", "type", "param", "code", "index", "limit"}}`."""

NOTES = ("title", "description", "examples", "default")
"""Keywords of a property's schema that do not restrict its value."""


def describe(
    answer: type[BaseModel],
    *,
    json: type[BaseModel] | None = None,
    form: tuple[type[BaseModel] | None, str] | None = None,
    image_required: bool = True,
    error: type[BaseModel] = ErrorAnswer,
) -> dict[str, Any]:
    """Return the keyword arguments of a route that parses its body itself.

    Args:
        answer: Body of the response with status 200.
        json: Request body as JSON.
        form: Request body as a form: its fields, and the name of the field for image files.
        image_required: Whether the form needs an image.
        error: Body of the error responses.
    """
    content: dict[str, Any] = {}
    if form:
        content["multipart/form-data"] = {"schema": _form_schema(*form, image_required)}
    if json:
        content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{json.__name__}"}}
    return {
        "response_model": answer,
        "responses": describe_errors(*ERRORS, error=error),
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def describe_errors(*statuses: int, error: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of a route's error responses, whose body is `error`."""
    return {status: {"model": error, **ERRORS[status]} for status in statuses}


def openapi(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the OpenAPI document, which is built once.

    Args:
        app: The application.
        bodies: Models of the JSON bodies that routes parse themselves, which FastAPI does not know.
    """
    if app.openapi_schema is None:
        document: dict[str, Any] = get_openapi(
            title="tritonclip gateway", version=__version__, description=DESCRIPTION, routes=app.routes
        )
        components = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422; the gateway answers 400
            components.pop(name, None)
        components |= _definitions([*bodies, ErrorAnswer])
        for body in bodies:
            _allow_null(components[body.__name__])
        for path in document["paths"].values():
            for operation in path.values():
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]  # FastAPI's own
                for parameter in operation.get("parameters", []):  # an omitted parameter is not null
                    parameter["schema"] = _without_null(parameter["schema"])
        app.openapi_schema = document
    return app.openapi_schema


def _definitions(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return JSON schemas for `components/schemas`."""
    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = schema["$defs"]
    return found


def _allow_null(schema: dict[str, Any]) -> None:
    """Let each optional property of a body be null, which counts as left out."""
    for name, entry in schema["properties"].items():
        if name in schema.get("required", []) or {"type": "null"} in entry.get("anyOf", []):
            continue
        notes = {key: entry.pop(key) for key in NOTES if key in entry}
        schema["properties"][name] = {**notes, "anyOf": [entry, {"type": "null"}]}


def _form_schema(fields: type[BaseModel] | None, image_field: str, image_required: bool) -> dict[str, Any]:
    """Return the schema of a form. It omits fields that JSON sets to null, and repeats fields for lists."""
    schema = fields.model_json_schema() if fields else {}
    properties = {name: _without_null(entry) for name, entry in schema.get("properties", {}).items()}
    properties[image_field] = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "Encoded image file. Repeat the field for several images.",
    }
    return {
        "type": "object",
        "properties": properties,
        "required": [*([image_field] if image_required else []), *schema.get("required", [])],
    }


def _without_null(entry: dict[str, Any]) -> dict[str, Any]:
    options: list[dict[str, Any]] = [
        option for option in entry.get("anyOf", []) if option != {"type": "null"}
    ]
    if not options:
        return entry
    kept: dict[str, Any] = {key: value for key, value in entry.items() if key not in ("anyOf", "default")}
    return kept | options[0]
