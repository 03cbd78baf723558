"""CLIP's two towers as ONNX files: projection and L2 norm inside, any number of images, texts and tokens.

The modules are transformers' own, so the files compute what it computes. They are written by torch's
exporter of `torch.export` (`dynamo=True`), not by the TorchScript one: that is deprecated since torch 2.9,
and traces: branches and shapes of the example become constants, with warnings at best. The price is
onnxscript, and 5 to 35 s a tower in place of one.
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
"""Of ONNX: read by ONNX Runtime 1.14 and later; what the exporter writes without converting."""
IMAGE_TOWER, TEXT_TOWER = "image_encoder.onnx", "text_encoder.onnx"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
MAX_PROTOBUF_BYTES = 2**31 - 2**20  # of one file; larger towers get their weights in a file beside it


class ImageTower(nn.Module):
    """float32 [n, 3, h, w], normalised -> float32 [n, dim], unit L2 norm."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed images; the weights may be of half precision, the norm is taken in float32."""
        pixels = pixel_values.to(self.projection.weight.dtype)
        return _unit(self.projection(self.tower(pixel_values=pixels).pooler_output))


class TextTower(nn.Module):
    """int64 [n, tokens], padded on the right -> float32 [n, dim], unit L2 norm.

    There is no mask: attention is causal and the embedding is read at the first end token, so what follows it
    changes nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projection = model.text_model, model.text_projection

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed texts."""
        return _unit(self.projection(self.tower(input_ids=input_ids).pooler_output))


def write_towers(model: Any, precision: str, directory: Path) -> None:
    """Write both towers of a float32 `CLIPModel`; the model stays as it is.

    Args:
        model: Ready to infer.
        precision: A key of `DTYPES`: of weights and computation. Inputs and outputs are float32 in any case.
        directory: Where to; made if need be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    dtype, size = DTYPES[precision], model.config.vision_config.image_size
    cast = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    pixels = torch.zeros(2, 3, size, size)
    tokens = torch.zeros(2, 9, dtype=torch.int64)
    _export(ImageTower(cast), pixels, directory / IMAGE_TOWER, {0: "images"}, "image_embeds")
    _export(TextTower(cast), tokens, directory / TEXT_TOWER, {0: "texts", 1: "tokens"}, "text_embeds")


def expected_bytes(model: Any, precision: str) -> int:
    """About what the two files take."""
    return sum(parameter.numel() for parameter in model.parameters()) * DTYPES[precision].itemsize


def _unit(embeds: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(embeds.float(), dim=-1)


def _export(
    module: nn.Module, example: torch.Tensor, path: Path, dynamic: dict[int, str], output: str
) -> None:
    name = "pixel_values" if example.is_floating_point() else "input_ids"
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # that torchvision, which is not used, is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own modules among each other
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
    _forget_the_source(program.model)
    program.save(path, external_data=weights > MAX_PROTOBUF_BYTES)


def _forget_the_source(model: Any) -> None:
    """Removes what the exporter notes of Python's stack, paths of this machine included."""
    for part in (model, model.graph, *model.graph.all_nodes()):
        part.metadata_props.clear()
        for value in getattr(part, "outputs", ()):
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
