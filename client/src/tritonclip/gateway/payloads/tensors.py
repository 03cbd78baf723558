"""Tensors in the bodies of Triton's HTTP API, as JSON or in its binary extension.

A binary tensor follows the JSON: numbers in little-endian order, or for BYTES each element with its length in
4 bytes in front. Source: Triton's docs/protocol/extension_binary_data.md in triton-inference-server/server.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tritonclip._calls.wire import Model, Tensor, Tensors
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError
from tritonclip.gateway.payloads.schemas import TEXTS_EXAMPLE

NOUNS = {"image": "images", "pixel_values": "images", "labels": "labels", "text": "texts"}
"""Noun for the elements of each input."""
DTYPES: dict[str, Any] = {"UINT8": np.uint8}
_LENGTH = struct.Struct("<I")


class TensorParameters(BaseModel):
    """Parameters of a tensor. Unknown members are ignored."""

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Bytes of this tensor after the JSON.", examples=[None]
    )
    binary_data: bool = Field(
        default=False, description="Send this output after the JSON, in binary form.", examples=[False]
    )


class InputTensor(BaseModel):
    """An input: its data as a list, nested or flat, or after the JSON."""

    name: str = Field(examples=["text"])
    shape: list[int] = Field(examples=[[1, 2]])
    datatype: str = Field(examples=["BYTES"])
    data: list[Any] | None = Field(default=None, examples=[TEXTS_EXAMPLE])
    parameters: TensorParameters = TensorParameters()


class RequestedOutput(BaseModel):
    """An output that the response must have."""

    name: str = Field(examples=["text_embeds"])
    parameters: TensorParameters = TensorParameters()


class OutputTensor(BaseModel):
    """An output: its data as a flat list, or after the JSON."""

    name: str = Field(examples=["text_embeds"])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 2, 2]])
    data: list[float] | None = Field(default=None, examples=[[0.6, 0.8, 0.8, 0.6]])
    parameters: TensorParameters | None = None


def read_inputs(
    model: Model, given: Sequence[InputTensor], binary: bytes, limits: Mapping[str, int]
) -> Tensors:
    """Return the arrays of a request's inputs, each with a batch dimension of 1 in front.

    Args:
        model: The model to call.
        given: The inputs of the request.
        binary: The bytes after the JSON.
        limits: The largest number of elements by noun; see `NOUNS`.

    Raises:
        InvalidInputError: An input is missing, is not one of the model's, has another shape or datatype, or
            does not fit its data.
    """
    by_name = {tensor.name: tensor for tensor in model.inputs}
    arrays: Tensors = {}
    start = 0
    for one in given:
        tensor = by_name.get(one.name)
        if tensor is None or one.name in arrays:
            raise InvalidInputError(f"unexpected inference input {shown(one.name)} for model '{model.name}'")
        _check_shape(one, tensor, limits[NOUNS[tensor.name]])
        size = one.parameters.binary_data_size
        if size is None:
            arrays[one.name] = _from_json(one)
            continue
        if len(binary) - start < size:
            raise InvalidInputError(
                f"input '{one.name}': binary_data_size is {size}, but the body has only "
                f"{len(binary) - start} more bytes"
            )
        arrays[one.name] = _from_binary(one, binary[start : start + size])
        start += size
    if len(arrays) < len(by_name) or start < len(binary):
        raise InvalidInputError(
            f"expected {len(by_name)} inputs ({', '.join(by_name)}) for model '{model.name}' and no other "
            f"data, got {len(arrays)} inputs and {len(binary) - start} further bytes"
        )
    return arrays


def write_outputs(
    outputs: Tensors, tensors: Sequence[Tensor], binary_names: set[str], rest: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON if binary tensors follow it.

    Args:
        outputs: The arrays.
        tensors: The outputs that were requested.
        binary_names: Names of those that are sent in binary form.
        rest: The other members of the JSON.
    """
    entries, blobs = [], []
    for tensor in tensors:
        if tensor.name not in outputs:
            continue
        array = outputs[tensor.name]
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        if tensor.name in binary_names:
            blobs.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    head = json.dumps({**rest, "outputs": entries}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([head, *blobs]), len(head) if blobs else None


def _check_shape(one: InputTensor, tensor: Tensor, limit: int) -> None:
    dims = ", ".join(["1", *map(str, tensor.dims)])
    fits = len(one.shape) == 1 + len(tensor.dims) and all(
        got >= 0 if want == -1 else got == want
        for got, want in zip(one.shape, (1, *tensor.dims), strict=True)
    )
    if not fits or one.datatype != tensor.datatype:
        raise InvalidInputError(
            f"input '{one.name}': expected {tensor.datatype} [{dims}], got {shown(one.datatype)} "
            f"{shown(str(one.shape))}"
        )
    if one.shape[1] > limit:
        raise InvalidInputError(
            f"too many {NOUNS[tensor.name]}: {one.shape[1]} in one request, the limit is {limit}; split the "
            "request"
        )


def _from_json(one: InputTensor) -> npt.NDArray[Any]:
    try:
        if one.data is None:
            raise ValueError("it has neither data nor binary_data_size")
        values = _flat(one.data)
        if len(values) != math.prod(one.shape):
            raise ValueError(f"{len(values)} values, but its shape needs {math.prod(one.shape)}")
        if one.datatype == "BYTES":
            return _objects([_utf8(value) for value in values], one.shape)
        if any(type(value) is not int for value in values):
            raise ValueError("expected whole numbers")
        return np.array(values, DTYPES[one.datatype]).reshape(one.shape)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"input '{one.name}': {error}") from error


def _from_binary(one: InputTensor, data: bytes) -> npt.NDArray[Any]:
    try:
        if one.datatype == "BYTES":
            return _objects(_split(data, math.prod(one.shape)), one.shape)
        return np.frombuffer(data, DTYPES[one.datatype]).reshape(one.shape)
    except (ValueError, struct.error) as error:
        raise InvalidInputError(
            f"input '{one.name}': its {len(data)} bytes do not fit {one.datatype} {one.shape}"
        ) from error


def _split(data: bytes, count: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor."""
    values, start = [], 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        values.append(data[start : start + length])
        start += length
    if start != len(data):
        raise ValueError("the lengths of the elements do not add up to the size of the tensor")
    return values


def _objects(values: Sequence[bytes], shape: Sequence[int]) -> npt.NDArray[Any]:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def _flat(data: Any) -> list[Any]:
    """Return the values of nested lists in order."""
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise ValueError("its data mixes lists and values")
        data = [value for row in data for value in row]
    return list(data)


def _utf8(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("expected strings")
    return value.encode()
