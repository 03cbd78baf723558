"""Plain tritonclient calls that the client package would reject, and readings of metrics and statistics."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from clip_common.metrics import PUBLISH_INTERVAL_S
from tests.helpers.waiting import settled
from tritonclip import Client, ModelStatistics
from tritonclip_server.serving.launcher import EmbeddedTriton

T = TypeVar("T")


def bytes_tensor(*rows: list[bytes]) -> np.ndarray:
    """Build a BYTES tensor [rows, columns]; one empty row makes [1, 0]."""
    tensor = np.empty((len(rows), len(rows[0])), dtype=object)
    for index, row in enumerate(rows):
        tensor[index, :] = row
    return tensor


def infer(
    server: EmbeddedTriton,
    protocol: str,
    model: str,
    parameters: dict[str, Any] | None = None,
    **tensors: np.ndarray,
) -> dict[str, np.ndarray]:
    """Send the tensors and request parameters unchanged, and return the outputs by name."""
    module = {"grpc": tritonclient.grpc, "http": tritonclient.http}[protocol]
    with module.InferenceServerClient({"grpc": server.grpc_url, "http": server.http_url}[protocol]) as client:
        inputs = []
        for name, tensor in tensors.items():
            inputs.append(module.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype)))
            inputs[-1].set_data_from_numpy(tensor)
        result = client.infer(model, inputs, parameters=parameters)
        reply = result.get_response()
        names = (
            [one["name"] for one in reply["outputs"]]
            if protocol == "http"
            else [one.name for one in reply.outputs]
        )
        return {name: result.as_numpy(name) for name in names}


def together(count: int, call: Callable[[int], T]) -> list[T | Exception]:
    """Make `count` calls at the same time; return the result or the exception of each."""

    def attempt(index: int) -> T | Exception:
        try:
            return call(index)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))


def metric(server: EmbeddedTriton, name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels."""
    total = 0.0
    for found, text, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", server.metrics(), re.MULTILINE):
        if found == name and all(f'{key}="{wanted}"' in text for key, wanted in labels.items()):
            total += float(value)
    return total


def settled_metric(server: EmbeddedTriton, name: str, **labels: str) -> float:
    """Return `metric()` of a model's series once it no longer changes, because it lags behind the answers."""
    return settled(lambda: metric(server, name, **labels), pause_s=PUBLISH_INTERVAL_S)


def cache_counts(server: EmbeddedTriton) -> dict[str, float]:
    """Return the label cache's metrics by their short names, once they no longer change."""
    names = ("hits_total", "misses_total", "evictions_total", "entries", "bytes")

    def read() -> dict[str, float]:
        return {name: metric(server, f"tritonclip_label_cache_{name}") for name in names}

    return settled(read, pause_s=PUBLISH_INTERVAL_S)


def parameters(server: EmbeddedTriton, model: str) -> dict[str, Any]:
    """Return the `parameters` of a model's configuration, as a client sees them."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        config = client.get_model_config(model, as_json=True)["config"]
    return {name: entry["string_value"] for name, entry in config["parameters"].items()}


def settled_statistics(client: Client) -> dict[str, ModelStatistics]:
    """Return a client's `statistics()` by model, once they no longer change."""
    return {one.name: one for one in settled(client.statistics)}
