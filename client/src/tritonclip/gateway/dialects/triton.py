"""Triton's own HTTP API (KServe v2) for the public models, for clients of Triton with the gateway's address.

`tritonclip --url https://GATEWAY` and `Client("https://GATEWAY")` use it: the same code as at Triton, with
the gateway's keys and limits. Names, shapes and numbers of tensors are checked here, their content by
Triton. It does not load or unload models, and has no shared memory, sequences or streams.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from tritonclient.utils import InferenceServerException

from tritonclip._calls import codec, wire
from tritonclip._calls.request import Deadline
from tritonclip._calls.steps import Flow, infer_versioned
from tritonclip._calls.wire import Question, Topic
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError, TritonClipError, rejection_reason
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.observability.middleware import count_images
from tritonclip.gateway.payloads.answers import STREAMED_VALUES
from tritonclip.gateway.payloads.bodies import IN_THREAD_BYTES, read_json_head
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.tensors import (
    NOUNS,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    read_inputs,
    write_outputs,
)

MODELS = {model.name: model for model in wire.PUBLIC_MODELS}
JSON_LENGTH = "Inference-Header-Content-Length"


class TritonError(BaseModel):
    """Triton's error."""

    error: str = Field(examples=["Request for unknown model: 'x' is not found"])


class InferParameters(BaseModel):
    """Parameters of a request. Unknown members are ignored."""

    binary_data_output: bool = Field(
        default=False, description="Send all outputs in binary form.", examples=[False]
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, description="Deadline of the request in milliseconds.", examples=[10_000]
    )


class InferRequest(BaseModel):
    """A request for one inference."""

    id: str = Field(default="", description="Repeated in the response.", examples=["1"])
    inputs: list[InputTensor] = Field(
        description="The inputs of the model.",
        examples=[[{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a red circle"]}]],
    )
    outputs: list[RequestedOutput] = Field(
        default=[], description="The outputs to return; all of the model by default.", examples=[[]]
    )
    parameters: InferParameters = Field(
        default=InferParameters(), description="The deadline, and the form of the outputs.", examples=[{}]
    )


class InferAnswer(BaseModel):
    """The outputs of an inference."""

    id: str | None = Field(default=None, examples=["1"])
    model_name: str = Field(examples=["clip_text_embedding"])
    model_version: str = Field(examples=["1"])
    outputs: list[OutputTensor]


class ModelConfig(BaseModel):
    """The parameters of a model's configuration."""

    name: str = Field(examples=["clip_zero_shot"])
    parameters: dict[str, dict[str, str]] = Field(examples=[{"logit_scale": {"string_value": "100.0"}}])


class Statistics(BaseModel):
    """Triton's statistics of all models, including the steps of the ensembles."""

    model_stats: list[dict[str, Any]]


DIALECT = Dialect("triton", lambda problem: {"error": problem.message})
BODIES = (InferRequest,)
router = APIRouter(tags=["Triton"], dependencies=[DIALECT.mark()])
_STATE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "Ready."},
        **describe_errors(400, 401, 404, 429, 503, 504, error=TritonError),
    },
}


@router.get("/v2/health/live", summary="Check whether Triton lives", **_STATE)
async def live(caller: Caller) -> Response:
    """Return 200 if Triton is live."""
    return await _state(caller, Question(Topic.SERVER_LIVE))


@router.get("/v2/health/ready", summary="Check whether Triton is ready", **_STATE)
async def ready(caller: Caller) -> Response:
    """Return 200 if Triton accepts inferences."""
    return await _state(caller, Question(Topic.SERVER_READY))


@router.get("/v2/models/{model:path}/ready", summary="Check whether a model is ready", **_STATE)
async def model_ready(model: str, caller: Caller) -> Response:
    """Return 200 if the model is ready."""
    return await _state(caller, Question(Topic.MODEL_READY, _model(model)))


@router.get(
    "/v2/models/{model:path}/config",
    summary="Get the parameters of a model",
    response_model=ModelConfig,
    responses=describe_errors(400, 401, 404, 429, 503, 504, error=TritonError),
)
async def config(model: str, caller: Caller) -> Response:
    """Return the checkpoint, the identity and the settings of a model, in the form of its configuration."""
    found = await _ask(caller, Question(Topic.MODEL_PARAMETERS, _model(model)))
    parameters = {name: {"string_value": value} for name, value in found.items()}
    return JSONResponse({"name": model, "parameters": parameters})


@router.get(
    "/v2/models/stats",
    summary="Get Triton's statistics",
    response_model=Statistics,
    responses=describe_errors(400, 401, 429, 503, 504, error=TritonError),
)
async def statistics(caller: Caller) -> Response:
    """Return counts and times of all models since Triton started, with all its callers."""
    return JSONResponse({"model_stats": await _ask(caller, Question(Topic.STATISTICS))})


@router.post(
    "/v2/models/{model:path}/infer",
    summary="Run one inference",
    **describe(InferAnswer, json=InferRequest, error=TritonError),
)
async def infer(model: str, request: Request, caller: Caller) -> Response:
    """Send tensors to a public model, as to Triton itself.

    Tensors may follow the JSON in Triton's binary form. The header Inference-Header-Content-Length then gives
    the length of the JSON, in requests and in responses.
    """
    contract = _model(model)
    fields, binary = await read_json_head(request, InferRequest, JSON_LENGTH)
    call = codec.Call(
        model=contract,
        inputs=await _read(contract, fields, binary, caller.state.settings),
        outputs=_outputs(contract, fields),
        decode=lambda outputs: outputs,
    )
    limit_s = (fields.parameters.deadline_ms or math.inf) / 1000
    deadline = Deadline(min(limit_s, caller.deadline.left_s))
    counts = Counter({NOUNS[name]: array.shape[1] for name, array in call.inputs.items()})
    images, texts = counts["images"], counts["labels"] + counts["texts"]
    try:
        outputs, version = await caller.state.inference.run(infer_versioned(call), deadline)
    except TritonClipError as error:
        count_images(request, caller.state.metrics, 0, images)
        raise _tritons_problem(error) from error
    count_images(request, caller.state.metrics, images, 0)
    caller.state.metrics.texts.inc(texts)
    rest = {"model_name": model, "model_version": version} | ({"id": fields.id} if fields.id else {})
    return await _answer(call, outputs, fields, rest)


async def _ask(caller: AuthorizedCaller, question: Question) -> Any:
    def ask() -> Flow[Any]:
        return (yield question)

    return await caller.state.inference.run(ask(), caller.deadline)


async def _state(caller: AuthorizedCaller, question: Question) -> Response:
    if not await _ask(caller, question):
        name = question.model.name if question.model else "the server"
        raise Problem(status=400, message=f"{name} is not ready")
    return Response()


def _model(name: str) -> wire.Model:
    if name not in MODELS:
        raise Problem(status=404, message=f"Request for unknown model: {shown(name)} is not found")
    return MODELS[name]


async def _read(
    model: wire.Model, fields: InferRequest, binary: bytes, settings: GatewaySettings
) -> wire.Tensors:
    limits = {"images": settings.max_images, "labels": settings.max_texts, "texts": settings.max_texts}
    if len(binary) > IN_THREAD_BYTES:
        return await asyncio.to_thread(read_inputs, model, fields.inputs, binary, limits)
    return read_inputs(model, fields.inputs, binary, limits)


def _outputs(model: wire.Model, fields: InferRequest) -> tuple[wire.Tensor, ...]:
    by_name = {tensor.name: tensor for tensor in model.outputs}
    for one in fields.outputs:
        if one.name not in by_name:
            raise InvalidInputError(f"unexpected inference output {shown(one.name)} for model '{model.name}'")
    return tuple(by_name[name] for name in dict.fromkeys(one.name for one in fields.outputs) or by_name)


async def _answer(
    call: codec.Call[wire.Tensors], outputs: wire.Tensors, fields: InferRequest, rest: dict[str, str]
) -> Response:
    if fields.parameters.binary_data_output and not fields.outputs:
        binary = {tensor.name for tensor in call.outputs}
    else:
        binary = {one.name for one in fields.outputs if one.parameters.binary_data}
    values = sum(array.size for name, array in outputs.items() if name not in binary)
    if values > STREAMED_VALUES:
        body, json_length = await asyncio.to_thread(write_outputs, outputs, call.outputs, binary, rest)
    else:
        body, json_length = write_outputs(outputs, call.outputs, binary, rest)
    if json_length is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")


def _tritons_problem(error: TritonClipError) -> Problem:
    """Return an error with Triton's own text if the caller can act on it, since clients read that text.

    The text of other errors may describe the inside of the deployment; see `problem_of`.
    """
    cause = error.__cause__
    text = str(cause.message()) if isinstance(cause, InferenceServerException) else error.message
    if isinstance(error, InvalidInputError):
        return Problem(status=400, message=text)
    if rejection_reason(error.message):
        return Problem(status=503, code="overloaded", message=text)
    return problem_of(error)
