"""Voyage's API for embeddings of images and texts, so that its clients only need another address and key."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from tritonclip._calls.token_counts import collecting
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._caller import Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._models import check_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import check_dimensions, check_not_truncated, embed
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.encodings import Encoding, encode
from tritonclip.gateway.payloads.openapi import describe
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, PIXEL, TEXTS_EXAMPLE, NotBlank

FIELDS = {"image": "inputs", "text": "inputs"}


def _error_body(problem: Problem) -> dict[str, Any]:
    return {"detail": problem.message}


DIALECT = Dialect("voyage", _error_body)
router = APIRouter(tags=["Voyage"], dependencies=[DIALECT.mark()])


class VoyagePart(BaseModel):
    """A text or an image. The member that `type` names is required; others are ignored."""

    type: Literal["text", "image_url", "image_base64"] = Field(examples=["text"])
    text: NotBlank | None = Field(default=None, description="A text.", examples=[TEXTS_EXAMPLE[0]])
    image_url: NotBlank | None = Field(default=None, description="An http(s) URL, or a data: URI.")
    image_base64: NotBlank | None = Field(
        default=None, description="A data: URI.", examples=[f"data:image/png;base64,{PIXEL}"]
    )

    @model_validator(mode="after")
    def _check_named(self) -> VoyagePart:
        if getattr(self, self.type) is None:
            raise ValueError(f"give the member {self.type}, which type names")
        return self

    @property
    def source(self) -> Source | str:
        """The image, or the text."""
        value: str = getattr(self, self.type)
        return value if self.type == "text" else Source(value)


class VoyageParts(RootModel[list[VoyagePart]]):
    """Content parts: one text or one image."""

    model_config = ConfigDict(json_schema_extra={"minItems": 1, "maxItems": 1})


class VoyageInput(BaseModel):
    """An input, which has one embedding. Unknown members are ignored."""

    content: VoyageParts = Field(
        description="One text or one image.", examples=[[{"type": "text", "text": TEXTS_EXAMPLE[0]}]]
    )


class VoyageRequest(BaseModel):
    """Voyage's request. Unknown members are ignored."""

    inputs: list[VoyageInput] = Field(
        description="Texts and images.",
        json_schema_extra={"minItems": 1},
        examples=[[{"content": [{"type": "text", "text": TEXTS_EXAMPLE[0]}]}]],
    )
    model: str | None = Field(
        default=None,
        description="The model's id from /v1/models, the last part of that id, `clip`, or an alias.",
        examples=["clip"],
    )
    truncation: bool = Field(
        default=True,
        description="With false, a text with more tokens than the model reads is an error. Otherwise its end "
        "is left out.",
        examples=[True],
    )
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] = Field(
        default="float", description="Type of the numbers of an embedding.", examples=["float"]
    )
    output_dimension: int | None = Field(
        default=None, description="Must be the model's own dimension.", examples=[None]
    )
    output_encoding: Literal["base64"] | None = Field(
        default=None, description="With base64, embeddings of type float are base64.", examples=[None]
    )
    encoding_format: Literal["base64"] | None = Field(
        default=None, description="Voyage's own client sends it for `output_encoding`.", examples=["base64"]
    )

    @property
    def encoding(self) -> Encoding:
        """The form in which embeddings are returned. Voyage's client reads lists of bytes, too."""
        is_base64 = self.output_dtype == "float" and (self.output_encoding or self.encoding_format)
        return "base64" if is_base64 else self.output_dtype


class VoyageEmbedding(BaseModel):
    """An embedding of unit length, or what remains of it in another type."""

    object: Literal["embedding"]
    index: int = Field(examples=[0])
    embedding: list[float] | list[int] | str = Field(examples=[[0.012, -0.034]])


class VoyageUsage(BaseModel):
    """Tokens of the texts before truncation. Pixels are not counted."""

    text_tokens: int = Field(examples=[10])
    image_pixels: Literal[0]
    video_pixels: Literal[0]
    total_tokens: int = Field(examples=[10])


class VoyageAnswer(BaseModel):
    """Voyage's list of embeddings."""

    object: Literal["list"]
    data: list[VoyageEmbedding]
    model: str = Field(examples=[MODEL_EXAMPLE])
    usage: VoyageUsage


class VoyageError(BaseModel):
    """Voyage's error: what is wrong, where, and how to fix it."""

    detail: str = Field(examples=["text 0: it is blank; give at least one character"])


BODIES = (VoyageRequest,)


@router.post(
    "/v1/multimodalembeddings",
    summary="Embed texts and images",
    **describe(VoyageAnswer, json=VoyageRequest, error=VoyageError),
)
async def embed_inputs(request: Request, caller: Caller) -> Response:
    """Return an embedding for each input. `input_type` has no effect."""
    body = await read_json(request, VoyageRequest)
    model = await caller.state.inference.model(caller.deadline)
    check_model(body.model, model, caller.state.settings)
    try:
        with collecting() as collected:
            vectors = await embed(request, caller, _sources(body.inputs))
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error
    check_dimensions(vectors, body.output_dimension, "output_dimension")
    if not body.truncation:
        check_not_truncated(collected, "inputs", "leave out truncation")
    content = {
        "object": "list",
        "data": (
            {"object": "embedding", "index": index, "embedding": encode(vector, body.encoding)}
            for index, vector in enumerate(vectors)
        ),
        "model": model.checkpoint,
        "usage": {
            "text_tokens": collected.tokens,
            "image_pixels": 0,
            "video_pixels": 0,
            "total_tokens": collected.tokens,
        },
    }
    return json_answer(content, rows="data", values=sum(map(len, vectors)))


def _sources(inputs: list[VoyageInput]) -> list[Source | str]:
    for index, item in enumerate(inputs):
        if len(item.content.root) != 1:
            raise InvalidInputError(
                f"text {index}: it has {len(item.content.root)} content parts, but an embedding is that of "
                "one text or one image; send each part as a separate input"
            )
    return [item.content.root[0].source for item in inputs]
