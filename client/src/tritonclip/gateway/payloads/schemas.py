"""JSON types that several dialects share, with the descriptions and examples of the API documentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

MODEL_EXAMPLE = "openai/clip-vit-base-patch32"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
TEXTS_EXAMPLE = ["a red circle", "the digit 7"]

# These constraints are documented here but enforced by the client, whose error messages are clearer.
NotBlank = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"\S"})]
Texts = Annotated[list[NotBlank], Field(json_schema_extra={"minItems": 1}, fail_fast=True)]


class StrictRequest(BaseModel):
    """A request that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Error(BaseModel):
    """An error: the problem, its location, and how to fix it."""

    message: str = Field(examples=["image 0: cannot identify the image format"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=["images[0]"])
    code: str = Field(examples=["invalid_input"])
    index: int | None = Field(
        default=None, description="Index of the image, label or text at fault.", examples=[0]
    )
    limit: float | None = Field(
        default=None, description="The limit that was exceeded, in the unit of the message.", examples=[80]
    )


class ErrorAnswer(BaseModel):
    """Body of every error response. Classification and similarity add the results of each image."""

    model_config = ConfigDict(extra="allow")

    error: Error


Warnings = Annotated[
    list[str],
    Field(
        description="What makes the results say less than they seem to, such as labels or texts that were "
        "truncated to the tokens that the model reads, default labels, or a single label.",
        examples=[[]],
    ),
]
