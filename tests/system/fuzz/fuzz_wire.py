"""An inference request that may say anything, in both protocols' wire forms, and the answer to it.

`tritonclient` checks what it sends; here nothing is checked, so that shapes, sizes and types can be wrong.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

Parameter = str | int | bool | float


@dataclass(frozen=True)
class Tensor:
    """A tensor whose claims need not agree with its bytes.

    Attributes:
        datatype: Triton's name, such as "FP32".
        shape: Claimed.
        data: Sent.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """An inference request.

    Attributes:
        what: For people: how it was made.
        outputs: Names asked for; all where empty.
    """

    model: str
    tensors: tuple[Tensor, ...]
    what: str = ""
    version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: "OK", a gRPC status such as "INVALID_ARGUMENT", an HTTP status such as "400", or "HANG" and
            "CLOSED" where the server gave no answer.
        outputs: By name; None where they cannot be read.
    """

    status: str
    message: str = ""
    outputs: Mapping[str, np.ndarray] | None = None


def bytes_elements(elements: Sequence[bytes]) -> bytes:
    """A BYTES tensor's data: each element behind its length."""
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def bytes_tensor(name: str, elements: Sequence[bytes]) -> Tensor:
    """A valid BYTES tensor of one row."""
    return Tensor(name, "BYTES", (1, len(elements)), bytes_elements(elements))


def array_tensor(name: str, array: np.ndarray) -> Tensor:
    """A valid tensor of numbers."""
    datatype = {"f4": "FP32", "u1": "UINT8", "i4": "INT32"}[array.dtype.str[1:]]
    return Tensor(name, datatype, array.shape, array.tobytes())


def grpc_body(request: Request) -> bytes:
    """The serialized ModelInferRequest."""
    message = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for tensor in request.tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.data)
    for output in request.outputs:
        message.outputs.add(name=output)
    for name, value in request.parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        setattr(message.parameters[name], kinds[type(value)], value)
    return bytes(message.SerializeToString())


def parse_grpc_body(body: bytes) -> Request:
    """The models and tensors of a serialized ModelInferRequest, without their bytes."""
    message = service_pb2.ModelInferRequest.FromString(body)
    tensors = (Tensor(one.name, one.datatype, tuple(one.shape), b"") for one in message.inputs)
    return Request(message.model_name, tuple(tensors))


def grpc_outputs(body: bytes) -> dict[str, np.ndarray]:
    """The outputs of a serialized ModelInferResponse."""
    message = service_pb2.ModelInferResponse.FromString(body)
    return {
        output.name: np.frombuffer(raw, triton_to_np_dtype(output.datatype)).reshape(tuple(output.shape))
        for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def http_parts(request: Request) -> tuple[str, dict[str, str], bytes]:
    """The path, the headers and the body of a POST with binary tensors."""
    inputs: list[dict[str, Any]] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(tensor.data)},
        }
        for tensor in request.tensors
    ]
    document: dict[str, Any] = {
        "inputs": inputs,
        "parameters": {"binary_data_output": True, **request.parameters},
    }
    if request.request_id:
        document["id"] = request.request_id
    if request.outputs:
        asked = {"binary_data": True}
        document["outputs"] = [{"name": name, "parameters": asked} for name in request.outputs]
    head = json.dumps(document).encode()
    version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
    path = f"/v2/models/{quote(request.model, safe='')}{version}/infer"
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return path, {**headers, **request.headers}, head + b"".join(tensor.data for tensor in request.tensors)


def http_outputs(body: bytes, head_bytes: int) -> dict[str, np.ndarray]:
    """The binary outputs of an HTTP answer, whose JSON has `head_bytes` bytes."""
    document, place, outputs = json.loads(body[:head_bytes]), head_bytes, {}
    for output in document.get("outputs", ()):
        size = output["parameters"]["binary_data_size"]
        raw = np.frombuffer(body[place : place + size], triton_to_np_dtype(output["datatype"]))
        outputs[output["name"]] = raw.reshape(output["shape"])
        place += size
    return outputs
