"""The JSON of requests and answers, with the descriptions and examples of the API's documentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, DEFAULT_LABELS

MODEL_EXAMPLE = "openai/clip-vit-base-patch32"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
TEXTS_EXAMPLE = ["a red circle", "the digit 7"]

# What the client's checks refuse with better words than pydantic has is said in the document only.
NotBlank = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"\S"})]
Texts = Annotated[list[NotBlank], Field(json_schema_extra={"minItems": 1})]
Images = Annotated[
    Texts | NotBlank,
    Field(
        description="One image or several: base64 of an encoded file (JPEG, PNG, WebP, GIF, BMP, TIFF ...), "
        "a data: URI, or, where the operator allows it, an http(s) URL.",
        examples=[[PIXEL]],
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassifyFields(_Request):
    """What images are ranked by."""

    labels: Texts | NotBlank | None = Field(
        default=None,
        description="Candidate labels; one string is split at its commas. Without them: "
        + ", ".join(DEFAULT_LABELS)
        + ".",
        examples=[TEXTS_EXAMPLE],
    )
    hypothesis_template: str = Field(
        default=DEFAULT_HYPOTHESIS_TEMPLATE,
        description="Sentence with one {} for the label; '{}' for labels that are sentences.",
        examples=[DEFAULT_HYPOTHESIS_TEMPLATE],
        json_schema_extra={"pattern": r"^[^{}]*\{\}[^{}]*$"},
    )
    top_k: int | None = Field(
        default=None, ge=1, description="Keep only so many labels an image, the best.", examples=[5]
    )
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Keep only scores of at least this much.", examples=[0.01]
    )


class ClassifyRequest(ClassifyFields):
    """Images and candidate labels."""

    images: Images


class SimilarityFields(_Request):
    """What images are compared with."""

    texts: Texts | NotBlank = Field(
        description="One text or several, taken as they are.", examples=[TEXTS_EXAMPLE]
    )


class SimilarityRequest(SimilarityFields):
    """Images and texts."""

    images: Images


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, with `modality` for images. Members that are not listed are passed over."""

    input: Texts | NotBlank = Field(
        description="Texts, or with modality image: data: URIs, base64 or http(s) URLs.",
        examples=[TEXTS_EXAMPLE],
    )
    model: str | None = Field(
        default=None,
        description="The id that /v1/models gives, its last part, or clip.",
        examples=["clip"],
    )
    modality: Literal["text", "image"] = Field(
        default="text", description="What `input` holds.", examples=["text"]
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="Numbers, or base64 of little-endian float32.", examples=["float"]
    )
    dimensions: int | None = Field(
        default=None, description="Only the model's own number: CLIP's vectors cannot be cut.", examples=[512]
    )


class SearchFields(_Request):
    """What is searched for, and among what."""

    text: NotBlank | None = Field(
        default=None,
        description="What the images show, as it is, without a template.",
        examples=["a red circle"],
    )
    top_k: int = Field(default=20, ge=1, le=100, description="How many results.", examples=[5])
    of: Literal["images", "texts", "all"] = Field(
        default="images", description="What to look among.", examples=["images"]
    )


class SearchRequest(SearchFields):
    """A text or an image."""

    image: NotBlank | None = Field(
        default=None,
        description="Instead of a text: base64 of an encoded file, a data: URI, or, where the operator "
        "allows it, an http(s) URL.",
        examples=[PIXEL],
    )


class NlpRequest(BaseModel):
    """SambaStudio's request for texts. Members that are not listed are passed over."""

    inputs: Texts | NotBlank = Field(description="One text or several.", examples=[["a red circle"]])


class Error(BaseModel):
    """What was wrong, where, and what to do."""

    message: str = Field(examples=["image 0: cannot identify the image format"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=["images[0]"])
    code: str = Field(examples=["invalid_input"])


class ErrorAnswer(BaseModel):
    """Every answer that is not a success. Classification and similarity tell of each image too."""

    model_config = ConfigDict(extra="allow")

    error: Error


class Prediction(BaseModel):
    """A label's score: a softmax over all candidate labels."""

    score: float = Field(examples=[0.998])
    label: str = Field(examples=["a red circle"])


class _ImageResult(BaseModel):
    index: int = Field(description="Place of the image in the request.", examples=[0])
    name: str | None = Field(description="Its file name, if it came with one.", examples=["red_circle.jpg"])


class Ranking(_ImageResult):
    """An image's labels, highest score first."""

    predictions: list[Prediction]


class Similarities(_ImageResult):
    """An image's cosine with each text, in their order."""

    similarities: list[float] = Field(examples=[[0.51, -0.12]])


class ImageError(_ImageResult):
    """Why an image was not answered; the others were."""

    error: Error


class Usage(BaseModel):
    """What the request held."""

    images: int = Field(description="Images answered.", examples=[1])
    texts: int = Field(description="Labels or texts.", examples=[2])
    prompt_tokens: int = Field(
        description="Tokens of these, templates included, before any cut.", examples=[22]
    )
    total_tokens: int = Field(examples=[22])


Warnings = Annotated[
    list[str], Field(description="Labels or texts that were cut at 77 tokens.", examples=[[]])
]


class ClassifyAnswer(BaseModel):
    """The labels of each image."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    results: list[Ranking | ImageError]
    warnings: Warnings
    usage: Usage


class SimilarityAnswer(BaseModel):
    """The cosines of each image."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    texts: list[str] = Field(examples=[TEXTS_EXAMPLE])
    results: list[Similarities | ImageError]
    warnings: Warnings
    usage: Usage


class Found(BaseModel):
    """An entry of the index."""

    id: str = Field(description="For its thumbnail.", examples=["d5235e0db774fe4abf09ec64b45be170"])
    kind: Literal["image", "text"]
    name: str = Field(description="Its path below what was indexed, or the text.", examples=["a/circle.jpg"])
    score: float = Field(description="Cosine with what was searched for.", examples=[0.31])


class SearchAnswer(BaseModel):
    """What was found, best first."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    entries: int = Field(description="In the index.", examples=[2000])
    results: list[Found]
    warnings: Warnings


class Embedding(BaseModel):
    """A vector of unit length."""

    object: Literal["embedding"]
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(description="Numbers, or base64.", examples=[[0.012, -0.034]])


class TokenUsage(BaseModel):
    """Tokens of the texts, start and end included, before any cut; images have none."""

    prompt_tokens: int = Field(examples=[10])
    total_tokens: int = Field(examples=[10])


class EmbeddingsAnswer(BaseModel):
    """OpenAI's list of embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str = Field(examples=[MODEL_EXAMPLE])
    usage: TokenUsage
    warnings: Warnings


class VectorsAnswer(BaseModel):
    """SambaStudio's answer: a vector of unit length for each input."""

    data: list[list[float]] = Field(examples=[[[0.012, -0.034]]])
    status_code: Literal[200]


class Model(BaseModel):
    """The weights that are served; embeddings may be compared where `sha256` is equal."""

    id: str = Field(examples=[MODEL_EXAMPLE])
    object: Literal["model"]
    created: int = Field(description="Not known: 0.", examples=[0])
    owned_by: str = Field(examples=["tritonclip"])
    revision: str = Field(description="The hub's commit, or local.", examples=["local"])
    sha256: str = Field(description="Of the weights.")
    random_weights: bool = Field(description="Random numbers, for load tests.", examples=[False])
    logit_scale: float = Field(description="The multiplier from cosine to logit.", examples=[100.0])


class ModelsAnswer(BaseModel):
    """The one model."""

    object: Literal["list"]
    data: list[Model]


class Info(BaseModel):
    """What a page needs to know before it calls."""

    version: str = Field(examples=["0.1.0"])
    keys_required: bool
    url_input: bool
    max_body_bytes: int
    max_images: int
    max_labels: int
    hypothesis_template: str
    default_labels: list[str]
    search: bool = Field(description="Whether there is an index to search in.")


class Live(BaseModel):
    """The gateway runs."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether an image can be classified now."""

    status: Literal["ready", "not ready"]
    inference: Literal["ok", "overloaded", "timeout", "failed"] | None = Field(
        description="What came of a true inference. An overloaded server is ready."
    )
    reason: str | None


def definitions(*models: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of models that no route names by itself, for `components/schemas`."""
    from pydantic.json_schema import models_json_schema

    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = schema["$defs"]
    return found
