"""The vision encoder and the decoder of this system without a server. Argument: REPOSITORY.

This process initialises and executes the `model.py` of the prepared `vision_encoder` and `image_preprocess`,
as Triton does. There are no other processes, and no copies between them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritonclip_server.benchmarks.peers.worker import batches, serve, timed
from tritonclip_server.repository.version_code import load_model_class


class Response:
    """Replacement for Triton's `InferenceResponse`; an error in it ends the measurement."""

    def __init__(self, output_tensors: list[Any] | None = None, error: Any = None) -> None:
        if error is not None:
            raise RuntimeError(f"a part failed: {error}")
        self.outputs = {name: array for name, array in output_tensors or []}


def replacement_utils() -> MagicMock:
    """Create a replacement for `triton_python_backend_utils`; metrics and log entries are discarded."""
    pb_utils = MagicMock()
    pb_utils.InferenceResponse = Response
    pb_utils.Tensor = lambda name, array: (name, array)
    pb_utils.TritonError.side_effect = lambda text, code: text
    pb_utils.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    return pb_utils


def request(name: str, array: np.ndarray) -> MagicMock:
    """Create a request with one input."""
    found = MagicMock()
    found.inputs = {name: MagicMock()}
    found.inputs[name].as_numpy = lambda: array
    found.is_cancelled.return_value = False
    return found


def configuration(directory: Path) -> dict[str, Any]:
    """Read the `config.pbtxt` of a model, as Triton passes it to `initialize`."""
    text = (directory / "config.pbtxt").read_text(encoding="utf-8")
    message = text_format.Parse(text, ModelConfig())
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def load_model(directory: Path) -> Any:
    """Initialise the `TritonPythonModel` of a prepared model directory without Triton."""
    version = directory / "1"
    sys.modules["triton_python_backend_utils"] = replacement_utils()
    model = load_model_class(version)()
    arguments = {
        "model_config": json.dumps(configuration(directory)),
        "model_name": directory.name,
        "model_version": "1",
        "model_repository": str(directory),
        "model_instance_name": f"{directory.name}_0_0",
        "model_instance_kind": "GPU" if Path("/dev/nvidiactl").exists() else "CPU",
        "model_instance_device_id": "0",
    }
    model.initialize(arguments)
    return model


def main(repository: str) -> None:
    """Load both models, and answer commands."""
    encoder = load_model(Path(repository) / "vision_encoder")
    encoder_threads = torch.get_num_threads()
    decoder = load_model(Path(repository) / "image_preprocess")

    def decoded(images: list[bytes]) -> np.ndarray:
        (response,) = decoder.execute([request("image", np.array([images], dtype=np.object_))])
        pixels: np.ndarray = response.outputs["pixel_values"]
        return pixels

    def encode(files: list[bytes], batch: int, seconds: float) -> dict[str, float]:
        pixels = decoded([files[number % len(files)] for number in range(batch)])
        torch.set_num_threads(encoder_threads)  # the decoder has set its own number for the whole process
        return timed(lambda: encoder.execute([request("pixel_values", pixels)]), batch, seconds)

    def decode(files: list[bytes], batch: int, seconds: float) -> dict[str, float]:
        torch.set_num_threads(1)
        groups = batches(files, batch)
        return timed(lambda: decoded(next(groups)), batch, seconds)

    serve({"encode": encode, "decode": decode})


if __name__ == "__main__":
    main(*sys.argv[1:])
