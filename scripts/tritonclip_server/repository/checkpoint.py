"""Read and check a CLIP checkpoint in Hugging Face format.

This module does not know Triton or the layout of a model repository. The served models do not use it: they
read their own version directory.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from tritonclip_server.repository.checkpoint_files import (
    REASON_LENGTH,
    CheckpointError,
    CheckpointFiles,
    first_line,
)
from tritonclip_server.repository.image_settings import read_image_settings

if TYPE_CHECKING:
    import torch  # imported when tensors are read; the check for an up-to-date repository needs none

SUPPORTED_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")
UNSUPPORTED = {
    "quantization_config": "use a checkpoint that is not quantised",
    "transformers_weights": "rename the weights to model.safetensors",
}
"""Settings of config.json that let transformers load other weights, and the fix."""
ADAPTER = "adapter_config.json"
TOWERS = ("vision_config", "vision_config_dict", "text_config", "text_config_dict")
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "image_size",
    "patch_size",
    "num_channels",
    "projection_dim",
)
LARGEST_SIZE = 1 << 20
COLOURS = 3
LEGACY_EOS_TOKEN_ID = 2
"""Wrong id in checkpoints made before transformers 4.31; their embedding is read at the highest token id."""

PADDING_TOKEN_ID = 0
"""Any token may follow the end token, which is read: attention is causal. The checkpoint's own may be null,
or have a higher id than the end token."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights and settings of a checkpoint.

    Attributes:
        source: Hub id or directory, as the user gave it.
        revision: Commit on the hub, or "local".
        sha256: Digest of the weights file. With several files, the digest of their digests in name order.
        random: True for random weights.
        vision: Settings of the vision tower, including the pixel normalisation.
        text: Settings of the text tower.
        processor: Resize and crop settings in the format of the `image_preprocess` model.
        logit_scale: Multiplier of the cosine.
        tokenizer: Content of `tokenizer.json`.
        tensors: All weights by the names of transformers.
    """

    source: str
    revision: str
    sha256: str
    random: bool
    vision: dict[str, Any]
    text: dict[str, Any]
    processor: dict[str, Any]
    logit_scale: float
    tokenizer: str
    tensors: dict[str, torch.Tensor] = field(repr=False)

    def tower(self, prefix: str, projection: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one tower and its projection, contiguous as safetensors requires."""
        names = [name for name in self.tensors if name.startswith(prefix) or name == projection]
        return {name: self.tensors[name].contiguous() for name in names}


def read_checkpoint(files: CheckpointFiles) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: It is not CLIP, its weights are incomplete or damaged, it has no tokenizer, or a
            setting is unknown.
    """
    config = _read_config(files)
    processor, normalisation = read_image_settings(files, config.vision_config.image_size)
    tokenizer = _read_tokenizer(files, config.text_config)
    tensors = _check_tensors(files.source, config, _read_tensors(files))
    return Checkpoint(
        source=files.source,
        revision=files.revision,
        sha256=files.sha256,
        random=False,
        vision=_vision_settings(config, normalisation),
        text=_text_settings(config),
        processor=processor,
        logit_scale=_read_logit_scale(files.source, tensors),
        tokenizer=tokenizer,
        tensors=tensors,
    )


def _read_config(files: CheckpointFiles) -> Any:
    from transformers import CLIPConfig

    settings = files.read_json("config.json")
    kind = settings.get("model_type")
    if kind != "clip":
        raise CheckpointError(
            f"'{files.source}' is a '{str(kind)[:100]}' model, not 'clip': only CLIP can be served"
        )
    for name in UNSUPPORTED:
        if settings.get(name) is not None:
            raise CheckpointError(
                f"'{files.source}': {name} in config.json is not supported; {UNSUPPORTED[name]}"
            )
    if (files.directory / ADAPTER).is_file():
        raise CheckpointError(f"'{files.source}' has an adapter ({ADAPTER}); merge it into the weights first")
    _check_numbers(files.source, settings)
    try:
        config = CLIPConfig.from_pretrained(files.directory)
    except Exception as error:  # transformers and its validation raise many types
        reason = " ".join(str(error).split())[:REASON_LENGTH]
        raise CheckpointError(f"'{files.source}': transformers rejects config.json: {reason}") from error
    _check_towers(files.source, config)
    return config


def _check_numbers(source: str, settings: dict[str, Any]) -> None:
    """Check the sizes in config.json before transformers divides by them or builds a model of that size."""
    sections = {"config.json": settings}
    sections |= {
        f"{name} of config.json": settings[name] for name in TOWERS if settings.get(name) is not None
    }
    for place, section in sections.items():
        if not isinstance(section, dict):
            raise CheckpointError(f"'{source}': {place} must be a JSON object")
        for name, value in section.items():
            if name in SIZES and not (type(value) is int and 1 <= value <= LARGEST_SIZE):
                wanted = f"a whole number from 1 to {LARGEST_SIZE}"
            elif name == "layer_norm_eps" and not (type(value) in (int, float) and 0 <= value < inf):
                wanted = "a number of at least 0"
            else:
                continue
            raise CheckpointError(f"'{source}': {name} in {place} is {str(value)[:100]}; it must be {wanted}")


def _check_towers(source: str, config: Any) -> None:
    vision, text = config.vision_config, config.text_config
    for tower in (vision, text):
        if tower.hidden_act not in SUPPORTED_ACTIVATIONS:
            raise CheckpointError(
                f"'{source}' uses the activation '{tower.hidden_act[:100]}'; "
                f"supported are {', '.join(SUPPORTED_ACTIVATIONS)}"
            )
    if vision.image_size % vision.patch_size:
        raise CheckpointError(
            f"'{source}': image_size {vision.image_size} is not a multiple of patch_size {vision.patch_size}"
        )
    if vision.num_channels != COLOURS:
        raise CheckpointError(
            f"'{source}': num_channels is {vision.num_channels}; images have {COLOURS} channels"
        )
    if type(text.eos_token_id) is not int:
        raise CheckpointError(
            f"'{source}': eos_token_id in text_config of config.json is {str(text.eos_token_id)[:100]}; "
            "it must be the number of the token that ends a text"
        )


def _read_tensors(files: CheckpointFiles) -> dict[str, torch.Tensor]:
    import torch
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in files.weights:
        try:
            if path.suffix == ".safetensors":
                tensors |= load_file(path)
            else:
                tensors |= torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # also raised for a file that holds code
            raise CheckpointError(
                f"'{files.source}': {path.name} holds other objects than tensors, or is damaged; "
                "use a checkpoint in safetensors format"
            ) from error
        except Exception as error:  # both readers raise many types on damaged files
            raise CheckpointError(
                f"'{files.source}': {path.name} is damaged or incomplete ({first_line(error)}); "
                "download it again"
            ) from error
    return tensors


def _check_tensors(source: str, config: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that transformers would load; it ignores all others."""
    expected = _expected_shapes(source, config, tensors)
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"'{source}' is incomplete: {len(missing)} tensors are missing, the first is {missing[0]}"
        )
    for name, shape in expected.items():
        _check_tensor(f"'{source}': {name}", tensors[name], shape)
    return _unshared({name: tensors[name] for name in expected})


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory with another one, as in a pickle; safetensors rejects them."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _expected_shapes(source: str, config: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    import torch
    from transformers import CLIPModel

    for tower, settings in (("vision", config.vision_config), ("text", config.text_config)):
        last = f"{tower}_model.encoder.layers.{settings.num_hidden_layers - 1}."
        if not any(str(name).startswith(last) for name in tensors):  # building the model may take hours
            raise CheckpointError(
                f"'{source}' is incomplete: config.json requires {settings.num_hidden_layers} layers in "
                f"{tower}_config, but the weights have no layer {last.rstrip('.')}"
            )
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CLIPModel(config).state_dict().items()}


def _check_tensor(name: str, tensor: Any, shape: Any) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise CheckpointError(f"{name} is no dense tensor")
    if tensor.shape != shape:
        raise CheckpointError(
            f"{name} has shape {list(tensor.shape)}, but config.json requires {list(shape)}"
        )
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise CheckpointError(
            f"{name} has the type {str(tensor.dtype).removeprefix('torch.')}; supported are float32, "
            "float16, bfloat16 and float64; convert the weights"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{name} repeats its values in memory; save the weights as safetensors")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{name} holds values that are not finite numbers")


def _read_logit_scale(source: str, tensors: dict[str, torch.Tensor]) -> float:
    scale = tensors["logit_scale"].double().exp().item()
    if not 0 < scale < inf:
        raise CheckpointError(f"'{source}': logit_scale gives a factor of {scale}; the weights are damaged")
    return scale


def _vision_settings(config: Any, normalisation: dict[str, Any]) -> dict[str, Any]:
    vision = config.vision_config
    sizes = {name: getattr(vision, name) for name in ("image_size", "patch_size", "num_channels")}
    return _tower_settings(vision) | sizes | {"projection_dim": config.projection_dim} | normalisation


def _text_settings(config: Any) -> dict[str, Any]:
    text = config.text_config
    sizes = {name: getattr(text, name) for name in ("vocab_size", "max_position_embeddings")}
    tokens = {"eos_token_id": text.eos_token_id, "pad_token_id": PADDING_TOKEN_ID}
    return _tower_settings(text) | sizes | tokens | {"projection_dim": config.projection_dim}


def _tower_settings(tower: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    return {name: getattr(tower, name) for name in (*names, "layer_norm_eps")}


def _read_tokenizer(files: CheckpointFiles, text: Any) -> str:
    from transformers import AutoTokenizer

    if not any((files.directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(
            f"'{files.source}' has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.directory, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
        highest, empty = max(tokenizer.get_vocab().values()), backend.encode("").ids
    except Exception as error:  # transformers and tokenizers raise many types on damaged files
        raise CheckpointError(f"'{files.source}' has no readable tokenizer: {first_line(error)}") from error
    if highest >= text.vocab_size:
        raise CheckpointError(
            f"'{files.source}': the tokenizer has token {highest}, but vocab_size in text_config of "
            f"config.json is {text.vocab_size}"
        )
    end = max(empty, default=None) if text.eos_token_id == LEGACY_EOS_TOKEN_ID else text.eos_token_id
    if end not in empty or empty.index(end) != len(empty) - 1:
        raise CheckpointError(
            f"'{files.source}': the tokenizer turns an empty text into the tokens {str(empty)[:100]}, "
            f"which do not end with eos_token_id {text.eos_token_id} of text_config in config.json"
        )
    if tokenizer.truncation_side != "right":
        raise CheckpointError(
            f"'{files.source}': truncation_side '{str(tokenizer.truncation_side)[:100]}' of the tokenizer is "
            "not supported; long texts are truncated on the right"
        )
    return str(backend.to_str())
