"""Find, check and read a CLIP checkpoint in Hugging Face format.

This module does not know Triton or the layout of a model repository. The served models do not use it: they
read their own version directory.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    import torch  # imported when tensors are read; the check for an up-to-date repository needs none

HUB_FILES = ["*.json", "merges.txt", "*.safetensors"]
PICKLED_WEIGHTS = "pytorch_model.bin"
SUPPORTED_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")


class CheckpointError(ValueError):
    """A checkpoint that cannot be served; the text is one line with its name, the reason and the fix."""


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


@dataclass(frozen=True)
class CheckpointFiles:
    """The directory of a checkpoint, its weights files and their digest."""

    source: str
    revision: str
    directory: Path
    weights: tuple[Path, ...]
    sha256: str


def locate(source: str, revision: str | None = None) -> CheckpointFiles:
    """Find a checkpoint's files, and download them if `source` is a hub id.

    Args:
        source: A directory, or a hub id such as "openai/clip-vit-base-patch32".
        revision: Commit, branch or tag on the hub; its default branch if None.

    Raises:
        CheckpointError: There is no such directory or hub id, no network, or it has no weights.
    """
    if Path(source).is_dir():
        directory, commit = Path(source), "local"
    else:
        directory = _download(source, revision, HUB_FILES)
        if not list(directory.glob("*.safetensors")):
            directory = _download(source, revision, [*HUB_FILES, PICKLED_WEIGHTS])
        commit = directory.name
    weights = _weight_files(directory, source)
    return CheckpointFiles(source, commit, directory, weights, _digest(weights))


def read_checkpoint(files: CheckpointFiles) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: It is not CLIP, its weights are incomplete or damaged, it has no tokenizer, or a
            setting is unknown.
    """
    config = _read_config(files)
    tensors = _read_tensors(files)
    _check_tensors(files.source, config, tensors)
    processor, normalisation = _read_processor(files)
    return Checkpoint(
        source=files.source,
        revision=files.revision,
        sha256=files.sha256,
        random=False,
        vision=_vision_settings(config, normalisation),
        text=_text_settings(config),
        processor=processor,
        logit_scale=tensors["logit_scale"].double().exp().item(),
        tokenizer=_read_tokenizer(files),
        tensors=tensors,
    )


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # errors of the hub's client, of its HTTP library and of the system
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"'{source}' is not a local directory, and the download from the hub failed ({reason}); "
            "check the name and the network, or give a local directory"
        ) from error


def _weight_files(directory: Path, source: str) -> tuple[Path, ...]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = tuple(directory / name for name in names)
    else:
        single = [directory / name for name in ("model.safetensors", PICKLED_WEIGHTS)]
        paths = tuple(path for path in single if path.is_file())[:1]
    absent = [path.name for path in paths if not path.is_file()]
    if absent or not paths:
        wanted = ", ".join(absent) or f"model.safetensors or {PICKLED_WEIGHTS}"
        raise CheckpointError(f"'{source}' has no weights: {wanted} is missing")
    return paths


def _digest(weights: tuple[Path, ...]) -> str:
    digests = [file_sha256(path) for path in weights]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_config(files: CheckpointFiles) -> Any:
    from transformers import CLIPConfig

    path = files.directory / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{files.source}' has no readable config.json: {error}") from error
    if kind != "clip":
        raise CheckpointError(
            f"'{files.source}' is a '{kind}' model, not 'clip': only CLIP checkpoints can be served"
        )
    config = CLIPConfig.from_pretrained(files.directory)
    for tower in (config.vision_config, config.text_config):
        if tower.hidden_act not in SUPPORTED_ACTIVATIONS:
            raise CheckpointError(
                f"'{files.source}' uses the activation '{tower.hidden_act}'; "
                f"supported are {', '.join(SUPPORTED_ACTIVATIONS)}"
            )
    if config.vision_config.image_size % config.vision_config.patch_size:
        raise CheckpointError(
            f"'{files.source}': image_size {config.vision_config.image_size} is not a multiple of "
            f"patch_size {config.vision_config.patch_size}"
        )
    return config


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
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"'{files.source}': {path.name} is damaged or incomplete ({error}); download it again"
            ) from error
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}


def _check_tensors(source: str, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    import torch
    from transformers import CLIPModel

    with torch.device("meta"):
        expected = CLIPModel(config).state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"'{source}' is incomplete: {len(missing)} tensors are missing, the first is {missing[0]}"
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"'{source}': {name} has shape {list(tensors[name].shape)}, "
                f"but config.json requires {list(tensor.shape)}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"'{source}': {name} holds values that are not finite numbers")


def _read_processor(files: CheckpointFiles) -> tuple[dict[str, Any], dict[str, Any]]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    try:
        processor = CLIPImageProcessorPil.from_pretrained(files.directory)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"'{files.source}' has no readable preprocessor_config.json ({reason})"
        ) from error
    size, crop = processor.size, processor.crop_size
    resize: Any = None
    if processor.do_resize:
        resize = size.get("shortest_edge") or [size["height"], size["width"]]
    settings = {
        "resize": resize,
        "resample": int(processor.resample),
        "crop": [crop["height"], crop["width"]] if processor.do_center_crop else None,
        "convert_rgb": bool(processor.do_convert_rgb),
    }
    normalisation = {
        "image_mean": list(processor.image_mean) if processor.do_normalize else [0.0, 0.0, 0.0],
        "image_std": list(processor.image_std) if processor.do_normalize else [1.0, 1.0, 1.0],
        "rescale_factor": processor.rescale_factor if processor.do_rescale else 1.0,
    }
    return settings, normalisation


def _vision_settings(config: Any, normalisation: dict[str, Any]) -> dict[str, Any]:
    vision = config.vision_config
    sizes = {name: getattr(vision, name) for name in ("image_size", "patch_size", "num_channels")}
    return _tower_settings(vision) | sizes | {"projection_dim": config.projection_dim} | normalisation


def _text_settings(config: Any) -> dict[str, Any]:
    text = config.text_config
    names = ("vocab_size", "max_position_embeddings", "eos_token_id", "pad_token_id")
    return (
        _tower_settings(text)
        | {name: getattr(text, name) for name in names}
        | {"projection_dim": config.projection_dim}
    )


def _tower_settings(tower: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    return {name: getattr(tower, name) for name in (*names, "layer_norm_eps")}


def _read_tokenizer(files: CheckpointFiles) -> str:
    from transformers import AutoTokenizer

    if not any((files.directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(
            f"'{files.source}' has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.directory)
    except Exception as error:  # transformers and tokenizers raise many types on damaged files
        raise CheckpointError(
            f"'{files.source}' has no readable tokenizer: {str(error).splitlines()[0]}"
        ) from error
    return str(tokenizer.backend_tokenizer.to_str())
