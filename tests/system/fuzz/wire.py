"""Inference requests with any content in the wire formats of both protocols, and the answers to them.

`tritonclient` validates requests. This module does not, so that shapes, sizes and types can be wrong.
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
    """A tensor whose type and shape need not agree with its bytes.

    Attributes:
        name: Name of the input.
        datatype: Triton's name of the type, such as "FP32".
        shape: Shape in the request.
        data: Bytes in the request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """An inference request.

    Attributes:
        description: Origin of the request, for messages.
        outputs: Names of the requested outputs; all outputs if empty.
    """

    model: str
    tensors: tuple[Tensor, ...]
    description: str = ""
    version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        status: "OK", a gRPC status such as "INVALID_ARGUMENT", an HTTP status such as "400", or "HANG" or
            "CLOSED" if the server did not answer.
        message: Text of the error.
        outputs: Outputs by name, or None if they cannot be read.
    """

    status: str
    message: str = ""
    outputs: Mapping[str, np.ndarray] | None = None


def bytes_elements(elements: Sequence[bytes]) -> bytes:
    """Encode the data of a BYTES tensor: the length of each element, then the element."""
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def bytes_tensor(name: str, elements: Sequence[bytes]) -> Tensor:
    """Build a valid BYTES tensor with one row."""
    return Tensor(name, "BYTES", (1, len(elements)), bytes_elements(elements))


def array_tensor(name: str, array: np.ndarray) -> Tensor:
    """Build a valid tensor of numbers."""
    datatype = {"f4": "FP32", "u1": "UINT8", "i4": "INT32", "i8": "INT64"}[array.dtype.str[1:]]
    return Tensor(name, datatype, array.shape, array.tobytes())


def grpc_body(request: Request) -> bytes:
    """Serialize a request as a ModelInferRequest."""
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
    """Parse the model and the tensors of a ModelInferRequest, without their bytes."""
    message = service_pb2.ModelInferRequest.FromString(body)
    tensors = (Tensor(one.name, one.datatype, tuple(one.shape), b"") for one in message.inputs)
    return Request(message.model_name, tuple(tensors))


def grpc_outputs(body: bytes) -> dict[str, np.ndarray]:
    """Parse the outputs of a ModelInferResponse."""
    message = service_pb2.ModelInferResponse.FromString(body)
    return {
        output.name: np.frombuffer(raw, triton_to_np_dtype(output.datatype)).reshape(tuple(output.shape))
        for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def http_parts(request: Request) -> tuple[str, dict[str, str], bytes]:
    """Return the path, the headers and the body of a POST request with binary tensors."""
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
        binary = {"binary_data": True}
        document["outputs"] = [{"name": name, "parameters": binary} for name in request.outputs]
    head = json.dumps(document).encode()
    version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
    path = f"/v2/models/{quote(request.model, safe='')}{version}/infer"
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return path, {**headers, **request.headers}, head + b"".join(tensor.data for tensor in request.tensors)


def http_outputs(body: bytes, head_bytes: int) -> dict[str, np.ndarray]:
    """Parse the binary outputs of an HTTP answer whose JSON has `head_bytes` bytes."""
    document, place, outputs = json.loads(body[:head_bytes]), head_bytes, {}
    for output in document.get("outputs", ()):
        size = output["parameters"]["binary_data_size"]
        raw = np.frombuffer(body[place : place + size], triton_to_np_dtype(output["datatype"]))
        outputs[output["name"]] = raw.reshape(output["shape"])
        place += size
    return outputs
