"""Forms in which callers give texts and images to embed: strings, objects, content parts, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from tritonclip._calls.token_counts import SHOWN_CHARACTERS
from tritonclip._images.urls import is_url
from tritonclip._messages.text import is_image_uri, shown
from tritonclip.errors import InvalidInputError
from tritonclip.gateway.payloads.bodies import Source
from tritonclip.gateway.payloads.schemas import PIXEL, TEXTS_EXAMPLE, NotBlank
from tritonclip.gateway.payloads.token_arrays import Decode

Modality = Literal["text", "image"]


class ImageUrl(BaseModel):
    """The address of an image. Unknown members are ignored."""

    url: NotBlank = Field(
        description="A data: URI, or an http(s) URL.", examples=[f"data:image/png;base64,{PIXEL}"]
    )


class InputItem(BaseModel):
    """An image or a text, exactly one of which is given. Unknown members are ignored."""

    text: NotBlank | None = Field(default=None, description="A text.", examples=[TEXTS_EXAMPLE[0]])
    image: NotBlank | None = Field(
        default=None, description="An image as base64, a data: URI, or an http(s) URL.", examples=[PIXEL]
    )
    image_url: NotBlank | ImageUrl | None = Field(
        default=None,
        description="An image, as in OpenAI's chat messages.",
        examples=[{"url": f"data:image/png;base64,{PIXEL}"}],
    )
    bytes: NotBlank | None = Field(
        default=None, description="An image as base64, as Jina's clients send it.", examples=[PIXEL]
    )
    url: NotBlank | None = Field(
        default=None,
        description="An image as a data: URI or an http(s) URL, as Jina's clients send it.",
        examples=[f"data:image/png;base64,{PIXEL}"],
    )

    @model_validator(mode="after")
    def _check_one(self) -> InputItem:
        if len(self._given()) != 1:
            raise ValueError("give exactly one of text, image, image_url, bytes and url")
        return self

    @property
    def source(self) -> Source | str:
        """The image, or the text."""
        if self.text is not None:
            return self.text
        (address,) = self._given()
        return Source(address.url if isinstance(address, ImageUrl) else address)

    def _given(self) -> list[str | ImageUrl]:
        values = (self.text, self.image, self.image_url, self.bytes, self.url)
        return [value for value in values if value is not None]


class Parts(RootModel[list[InputItem]]):
    """Content parts, as in OpenAI's chat messages: one text or one image."""

    model_config = ConfigDict(json_schema_extra={"minItems": 1, "maxItems": 1})


class Tokens(RootModel[list[int]]):
    """A text as an array of tokens, which the gateway reads if `--token-arrays` is set."""

    model_config = ConfigDict(json_schema_extra={"minItems": 1})


def _kind(value: object) -> str:
    """Return the tag of an element's form. A value of no known form counts as a string, which fails."""
    if isinstance(value, list):
        return "tokens" if value and all(isinstance(item, int) for item in value) else "parts"
    return "object" if isinstance(value, dict) else "string"


def _form(value: object) -> str:
    """Return the tag of a whole input's form."""
    kind = _kind(value)
    return "list" if kind == "parts" else kind


_String = Annotated[NotBlank, Tag("string")]
_Object = Annotated[InputItem, Tag("object")]
_Tokens = Annotated[Tokens, Tag("tokens")]
_Parts = Annotated[Parts, Tag("parts")]
Element = Annotated[_String | _Object | _Tokens | _Parts, Discriminator(_kind)]
_List = Annotated[list[Element], Field(json_schema_extra={"minItems": 1}, fail_fast=True), Tag("list")]
Input = Annotated[_String | _Object | _Tokens | _List, Discriminator(_form)]


class Message(BaseModel):
    """A chat message, as vLLM's clients send it. Unknown members are ignored."""

    content: Annotated[_String | _Parts, Discriminator(_kind)] = Field(
        description="A text, or content parts: one text or one image.",
        examples=[[{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]],
    )


def elements_of(given: Input) -> list[Element]:
    """Return the elements of an input, each of which has one embedding."""
    return given if isinstance(given, list) else [given]


def sources_of(
    elements: Sequence[Element],
    modality: Modality | None = None,
    decode: Decode | None = None,
) -> list[Source | str]:
    """Return each element as the image or the text that it is.

    Args:
        elements: The elements.
        modality: Type of all strings. None for images that begin with `data:image/`, and otherwise texts.
        decode: Return the text of an array of tokens. None to reject such arrays.

    Raises:
        InvalidInputError: If an element has several content parts, or its tokens cannot be decoded.
    """
    return [_source(element, index, modality, decode) for index, element in enumerate(elements)]


def url_warnings(elements: Sequence[Element]) -> list[str]:
    """Return a warning for each text that is the URL of something, perhaps of an image."""
    return [
        f"text {index} is a URL and was embedded as a text: {shown(item, SHOWN_CHARACTERS)}; "
        'send {"image_url": ...} for the image there'
        for index, item in enumerate(elements)
        if isinstance(item, str) and is_url(item) and not is_image_uri(item) and " " not in item
    ]


def _source(element: Element, index: int, modality: Modality | None, decode: Decode | None) -> Source | str:
    if isinstance(element, str):
        is_image = modality == "image" or (modality is None and is_image_uri(element))
        return Source(element) if is_image else element
    if isinstance(element, InputItem):
        return element.source
    if isinstance(element, Tokens):
        return _text(element.root, index, decode)
    if len(element.root) != 1:
        raise InvalidInputError(
            f"text {index}: it has {len(element.root)} content parts, but an embedding is that of one text "
            "or one image; send each part as a separate input"
        )
    return element.root[0].source


def _text(tokens: list[int], index: int, decode: Decode | None) -> str:
    if decode is None:
        raise InvalidInputError(
            f"text {index}: it is an array of tokens, and their vocabulary is unknown; send the text itself, "
            "in LangChain by OpenAIEmbeddings(check_embedding_ctx_length=False), or start the gateway with "
            "--token-arrays cl100k_base"
        )
    try:
        return decode(tokens)
    except (KeyError, OverflowError) as error:
        raise InvalidInputError(
            f"text {index}: a token is not in the vocabulary of --token-arrays ({error}); "
            "send the text itself"
        ) from error
