"""The API of Hugging Face's Inference Endpoints: zero-shot image classification and feature extraction."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, RootModel

from tritonclip._calls import codec
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip._calls.token_counts import collecting
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._models import check_model
from tritonclip.gateway._problems import Problem
from tritonclip.gateway.dialects.tei import EmbedOptions, ErrorText, answer, error_body, problem
from tritonclip.gateway.observability.middleware import count_images
from tritonclip.gateway.payloads.bodies import Source, check_texts_size, image_files, read_json
from tritonclip.gateway.payloads.openapi import describe
from tritonclip.gateway.payloads.schemas import PIXEL, TEXTS_EXAMPLE, NotBlank, Texts

DIALECT = Dialect("huggingface", error_body)
router = APIRouter(tags=["Hugging Face"], dependencies=[DIALECT.mark()])


class ImageInput(BaseModel):
    """An image. Unknown members are ignored."""

    image: NotBlank = Field(
        description="An image as base64, a data: URI, or an http(s) URL.", examples=[PIXEL]
    )


class PipelineParameters(BaseModel):
    """Parameters of a task. Unknown members are ignored."""

    candidate_labels: Texts | NotBlank | None = Field(
        default=None,
        description="Labels to rank for the image. A single string is split at its commas. Without labels, "
        "the inputs are embedded.",
        examples=[TEXTS_EXAMPLE],
    )
    hypothesis_template: str = Field(
        default=DEFAULT_HYPOTHESIS_TEMPLATE,
        description="Sentence with one {} for the label.",
        examples=[DEFAULT_HYPOTHESIS_TEMPLATE],
    )


class PipelineRequest(EmbedOptions):
    """Inputs of a task, with its parameters. Unknown members are ignored."""

    inputs: (
        Annotated[list[NotBlank | ImageInput], Field(json_schema_extra={"minItems": 1}, fail_fast=True)]
        | NotBlank
        | ImageInput
    ) = Field(
        description="With candidate labels, one image: base64, a data: URI, an http(s) URL, or an object "
        "with `image`. Without, texts and objects with `image` to embed.",
        examples=[PIXEL],
    )
    parameters: PipelineParameters | None = Field(
        default=None, examples=[{"candidate_labels": TEXTS_EXAMPLE}], description="Parameters of the task."
    )


class LabelScore(BaseModel):
    """A label's score: a softmax over all candidate labels."""

    label: str = Field(examples=["a red circle"])
    score: float = Field(examples=[0.998])


class PipelineAnswer(RootModel[list[LabelScore] | list[list[float]]]):
    """Labels, highest score first; or one vector of unit length for each input."""


BODIES = (PipelineRequest,)
_DESCRIPTION = describe(PipelineAnswer, json=PipelineRequest, error=ErrorText)


@router.post("/", summary="Rank labels for an image, or embed texts and images", **_DESCRIPTION)
async def run_task(request: Request, caller: Caller) -> Response:
    """Rank the labels of `parameters.candidate_labels` for an image. Without labels, embed the inputs."""
    return await _run(request, caller, await read_json(request, PipelineRequest))


@router.post(
    "/models/{model:path}",
    summary="Rank labels for an image, or embed texts and images, by the name of the model",
    **_DESCRIPTION,
)
async def run_task_of_model(model: str, request: Request, caller: Caller) -> Response:
    """Do the same as the path `/`, after a check of the model's name."""
    body = await read_json(request, PipelineRequest)
    try:
        served = await caller.state.inference.model(caller.deadline)
    except TritonClipError as error:
        raise problem(error) from error
    check_model(model, served, caller.state.settings)
    return await _run(request, caller, body)


async def _run(request: Request, caller: AuthorizedCaller, body: PipelineRequest) -> Response:
    if body.parameters and body.parameters.candidate_labels is not None:
        return await _classify(request, caller, body, body.parameters)
    inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    sources = [Source(item.image) if isinstance(item, ImageInput) else item for item in inputs]
    return await answer(request, caller, sources, body)


async def _classify(
    request: Request, caller: AuthorizedCaller, body: PipelineRequest, parameters: PipelineParameters
) -> Response:
    if isinstance(body.inputs, list):
        message = "inputs: give one image, not a list; send a request for each image"
        raise Problem(status=400, message=message, param="inputs")
    source = Source(body.inputs.image if isinstance(body.inputs, ImageInput) else body.inputs)
    state, labels = caller.state, parameters.candidate_labels
    try:
        check_texts_size("candidate_labels", labels or [], state.settings, parameters.hypothesis_template)
        ranking = {"labels": labels, "hypothesis_template": parameters.hypothesis_template}
        with collecting() as collected:
            codec.Ranking.check(**ranking, top_k=None, threshold=None)  # before the image is decoded
            files = await image_files([source], state.settings, state.urls, timeout_s=caller.deadline.left_s)
            (predictions,) = await state.inference.classify(files, caller.deadline, **ranking)
        state.metrics.texts.inc(collected.texts)
        failed = isinstance(predictions, TritonClipError)
        count_images(request, state.metrics, int(not failed), int(failed))
        if isinstance(predictions, TritonClipError):
            raise predictions
    except TritonClipError as error:
        raise problem(error) from error
    return JSONResponse([{"label": each["label"], "score": each["score"]} for each in predictions])
