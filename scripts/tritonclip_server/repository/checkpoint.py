"""Reads a CLIP checkpoint in Hugging Face format: finds its files, checks them, and takes them apart.

Everything here speaks transformers; nothing here knows Triton or the layout of a model repository. Loading
the weights of a server is not done here: the models of the repository read their own version directory.
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
    import torch  # loaded where tensors are read: that a repository is up to date is known without

HUB_FILES = ["*.json", "merges.txt", "*.safetensors"]
PICKLED_WEIGHTS = "pytorch_model.bin"
SUPPORTED_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")


class CheckpointError(ValueError):
    """A checkpoint that cannot be served; the text is one line: which, what is wrong, the cure."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint taken apart.

    Attributes:
        source: The hub id or the directory, as the user gave it.
        revision: The hub's commit, or "local".
        sha256: Of the weights file; of the digests of all of them, in order of name, where there are several.
        random: Whether the weights are random numbers.
        vision: Settings of the vision tower, the pixel normalisation included.
        text: Settings of the text tower.
        processor: Resize and crop, in the form of the `image_preprocess` model.
        logit_scale: The multiplier of the cosine.
        tokenizer: The content of `tokenizer.json`.
        tensors: All weights by transformers' names.
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
        """The tensors of one tower and its projection, contiguous, as safetensors wants them."""
        names = [name for name in self.tensors if name.startswith(prefix) or name == projection]
        return {name: self.tensors[name].contiguous() for name in names}


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint lies: its directory, its weights files and their digest."""

    source: str
    revision: str
    directory: Path
    weights: tuple[Path, ...]
    sha256: str


def locate(source: str, revision: str | None = None) -> CheckpointFiles:
    """Finds a checkpoint's files, and downloads them where `source` is a hub id.

    Args:
        source: A directory, or a hub id such as "openai/clip-vit-base-patch32".
        revision: Commit, branch or tag of the hub; its default branch where None.

    Raises:
        CheckpointError: No such directory or hub id, no network, or no weights in it.
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
    """Reads and checks a checkpoint.

    Raises:
        CheckpointError: Not CLIP, an incomplete or damaged set of weights, no tokenizer, or an unknown
            setting.
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
    """The hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # The hub's client raises its own, requests' and the system's errors.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"'{source}' is no directory here, and the hub did not give it ({reason}); "
            "check the name and the network, or name a local directory"
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
        raise CheckpointError(f"'{source}' lacks its weights: no {wanted}")
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
                f"known: {', '.join(SUPPORTED_ACTIVATIONS)}"
            )
    if config.vision_config.image_size % config.vision_config.patch_size:
        raise CheckpointError(
            f"'{files.source}': image_size {config.vision_config.image_size} is no multiple of "
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
        except pickle.UnpicklingError as error:  # also of a file that holds code to be run
            raise CheckpointError(
                f"'{files.source}': {path.name} holds other things than tensors, or is damaged; "
                "take a checkpoint in safetensors format"
            ) from error
        except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"'{files.source}': {path.name} is damaged or incomplete ({error}); fetch it again"
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
                f"config.json asks for {list(tensor.shape)}"
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
            f"'{files.source}' has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.directory)
    except Exception as error:  # transformers and tokenizers raise errors of many kinds on damaged files.
        raise CheckpointError(
            f"'{files.source}' has no readable tokenizer: {str(error).splitlines()[0]}"
        ) from error
    return str(tokenizer.backend_tokenizer.to_str())
