"""CLIP's two towers as ONNX files, with projection and L2 norm, for any number of images, texts and tokens.

The modules are those of transformers, so the files compute what transformers computes. The exporter is based
on `torch.export` (`dynamo=True`). The TorchScript exporter is deprecated since torch 2.9, and it turns
branches and shapes of the example into constants. The newer one requires onnxscript, and takes 5 to 35 s per
tower instead of 1 s.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

OPSET = 18
"""ONNX operator set that the exporter writes without conversion; ONNX Runtime 1.14 and later read it."""
IMAGE_TOWER, TEXT_TOWER = "image_encoder.onnx", "text_encoder.onnx"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
MAX_PROTOBUF_BYTES = 2**31 - 2**20  # limit of one file; the weights of larger towers go into a second file


class ImageTower(nn.Module):
    """Module from normalised float32 [n, 3, h, w] to float32 [n, dim], unit L2 norm."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed images. The weights may have half precision; the norm is computed in float32."""
        pixels = pixel_values.to(self.projection.weight.dtype)
        return _unit_rows(self.projection(self.tower(pixel_values=pixels).pooler_output))


class TextTower(nn.Module):
    """Module from int64 [n, tokens], padded on the right, to float32 [n, dim], unit L2 norm.

    It needs no mask: attention is causal and the embedding is read at the first end token, so tokens after it
    have no effect.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projection = model.text_model, model.text_projection

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed texts."""
        return _unit_rows(self.projection(self.tower(input_ids=input_ids).pooler_output))


def write_towers(model: Any, precision: str, directory: Path) -> None:
    """Write both towers of a float32 `CLIPModel`, which is not changed.

    Args:
        model: Model in evaluation mode.
        precision: Precision of weights and computation, a key of `DTYPES`. Embeddings and pixels are always
            float32.
        directory: Folder to write, created if necessary.
    """
    directory.mkdir(parents=True, exist_ok=True)
    dtype, size = DTYPES[precision], model.config.vision_config.image_size
    cast = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    pixels = torch.zeros(2, 3, size, size)
    tokens = torch.zeros(2, 9, dtype=torch.int64)
    _export(ImageTower(cast), pixels, directory / IMAGE_TOWER, {0: "images"}, "image_embeds")
    _export(TextTower(cast), tokens, directory / TEXT_TOWER, {0: "texts", 1: "tokens"}, "text_embeds")


def expected_bytes(model: Any, precision: str) -> int:
    """Estimate the size of the two files in bytes."""
    return sum(parameter.numel() for parameter in model.parameters()) * DTYPES[precision].itemsize


def _unit_rows(embeds: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(embeds.float(), dim=-1)


def _export(
    module: nn.Module, example: torch.Tensor, path: Path, dynamic: dict[int, str], output: str
) -> None:
    name = "pixel_values" if example.is_floating_point() else "input_ids"
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns if torchvision, not used, is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own modules
        program: Any = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=[output],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    _remove_source_paths(program.model)
    program.save(path, external_data=weights > MAX_PROTOBUF_BYTES)


def _remove_source_paths(model: Any) -> None:
    """Remove the stack traces that the exporter records, with paths of this machine."""
    for part in (model, model.graph, *model.graph.all_nodes()):
        part.metadata_props.clear()
        for value in getattr(part, "outputs", ()):
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
