"""Write a checkpoint into a Triton model repository, as one version of its models.

A version is assembled in a staging directory inside the output and then renamed into place, so an incomplete
version is never left behind. The code and the configurations come from `model_repository/`. The weights and
settings come from a `Checkpoint`.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from PIL import Image, ImageOps

from tritonclip_server.paths import DEMO_IMAGES, MODEL_REPOSITORY
from tritonclip_server.repository.checkpoint import Checkpoint
from tritonclip_server.repository.checkpoint_files import file_sha256
from tritonclip_server.repository.configs import (
    CONFIG,
    ENCODERS,
    ENSEMBLES,
    KINDS,
    MODELS,
    PLACEMENTS,
    PYTHON_MODELS,
    SIZES,
    ensemble_configuration,
    python_configuration,
    read_configuration,
    source_configuration,
    with_one_text_encoder,
    with_versions,
)
from tritonclip_server.repository.identity import PRELOADED_LABELS, answer_parameters, version_identity
from tritonclip_server.repository.image_settings import IMAGE_PROCESSORS, PILLOW, check_image_processor
from tritonclip_server.repository.progress import advance

COMMON = "clip_common"
"""Package in `model_repository/` that is copied into every version of a Python model."""
LEAST_INSTANCES_FOR_PRIORITIES = 4
"""With fewer instances, Triton's batcher sometimes stalls for 500 ms (`scripts/BENCHMARKS.md`)."""
WRITERS = (
    "checkpoint.py",
    "checkpoint_files.py",
    "configs.py",
    "identity.py",
    "image_settings.py",
    "writer.py",
)
"""Modules of this folder that determine the content of a version, in addition to `model_repository/`."""
LIBRARIES = ("tokenizers", "transformers")
"""Packages that read the settings of a checkpoint."""
REMOVED_PARAMETERS = {
    ("image_preprocess", name): "JPEGs are decoded on the CPU only; leave this setting out"
    for name in ("jpeg_decoder", "jpeg_gpu")
}
"""Parameters that `--set` accepted in earlier releases, and the reason why they are gone."""
MANIFEST = "manifest.json"
SHOWN_DIGITS = 12
"""Digits of a digest in a text."""
SAMPLE_PIXELS = "sample_pixels.npy"
"""File of a `vision_encoder` in int8 with the images that it calibrates and checks itself on at load."""
_BYTECODE = shutil.ignore_patterns("__pycache__")
STAGING_PREFIX = ".staging-"


class RepositoryError(ValueError):
    """A repository that cannot be read or written as requested; the text gives the reason and the fix."""


def check_parameters(parameters: Mapping[str, Mapping[str, str]]) -> None:
    """Check that changed parameters exist, and that sizes are positive whole numbers.

    Raises:
        RepositoryError: A model, a parameter or a value is wrong; the text lists the known names.
    """
    for model, changes in parameters.items():
        if model not in PYTHON_MODELS:
            raise RepositoryError(
                f"no model '{model}' with parameters; the models are {', '.join(PYTHON_MODELS)}"
            )
        known = source_configuration(model).parameters
        for name, value in changes.items():
            if reason := REMOVED_PARAMETERS.get((model, name)):
                raise RepositoryError(f"{model}.{name} was removed: {reason}")
            placements = PLACEMENTS if model in ENCODERS else ()
            if name not in known and name not in (*SIZES, *placements):
                names = ", ".join([*sorted(known), *SIZES, *placements])
                raise RepositoryError(f"{model} has no parameter '{name}'; it has {names}")
            if name in SIZES and not (value.isascii() and value.isdigit() and int(value) > 0):
                raise RepositoryError(f"{model}.{name} must be a whole number of at least 1, not '{value}'")
        _check_placement(model, changes)
        kind = changes.get("image_processor", PILLOW)
        if kind not in IMAGE_PROCESSORS:
            kinds = " or ".join(IMAGE_PROCESSORS)
            raise RepositoryError(f"{model}.image_processor must be {kinds}, not '{kind}'")
        if "priority_levels" in changes and int(changes.get("instances", 1)) < LEAST_INSTANCES_FOR_PRIORITIES:
            raise RepositoryError(
                f"{model}.priority_levels needs {model}.instances={LEAST_INSTANCES_FOR_PRIORITIES} or more: "
                "with fewer, Triton's batcher sometimes stalls for half a second"
            )


def _check_placement(model: str, changes: Mapping[str, str]) -> None:
    if "kind" in changes and changes["kind"] not in KINDS:
        raise RepositoryError(f"{model}.kind must be one of {', '.join(KINDS)}, not '{changes['kind']}'")
    if "gpus" not in changes:
        return
    numbers = changes["gpus"].split(",")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise RepositoryError(f"{model}.gpus must be numbers of GPUs such as 0,1, not '{changes['gpus']}'")
    if len(set(map(int, numbers))) < len(numbers):
        raise RepositoryError(f"{model}.gpus names a GPU twice: {changes['gpus']}")
    if changes.get("kind", "gpu") != "gpu":
        raise RepositoryError(f"{model}.gpus needs {model}.kind=gpu, not {changes['kind']}")


def version_fingerprint(
    checkpoint_key: str, parameters: Mapping[str, Mapping[str, str]], labels: Path | None
) -> str:
    """Return a digest of everything that determines the content of a version.

    Args:
        checkpoint_key: The `checkpoint_key` with the name of the source, or the recipe of random weights.
        parameters: Changed parameters by model.
        labels: File of labels that `text_encoder` encodes when it loads.
    """
    files = sorted(path for path in MODEL_REPOSITORY.rglob("*") if path.suffix in (".py", ".pbtxt"))
    parts = [checkpoint_key, json.dumps(parameters, sort_keys=True), file_sha256(labels) if labels else ""]
    parts += [f"{path.relative_to(MODEL_REPOSITORY)} {file_sha256(path)}" for path in files]
    parts += [f"{name} {file_sha256(Path(__file__).with_name(name))}" for name in WRITERS]
    parts += [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def has_version(output: Path, version: int, fingerprint: str) -> bool:
    """Return whether every model has this version with this fingerprint, undamaged and unchanged."""
    return all(_is_unchanged(output / model, version, fingerprint) for model in MODELS)


def version_bytes(output: Path, version: int) -> int:
    """Return the size of the files that the manifests of a version name; 0 if there is none."""
    manifests = [read_manifest(output / model / str(version)) or {} for model in MODELS]
    return sum(facts["bytes"] for manifest in manifests for facts in manifest.get("files", {}).values())


def write_version(
    checkpoint: Checkpoint,
    output: Path,
    version: int,
    *,
    fingerprint: str,
    parameters: Mapping[str, Mapping[str, str]],
    labels: Path | None,
    force: bool,
) -> str:
    """Write or replace one version of all models.

    Args:
        checkpoint: The weights and settings.
        output: The model repository; created if it does not exist.
        version: Number of the version directory.
        fingerprint: The `version_fingerprint` for the manifests.
        parameters: Changed parameters and `SIZES` of `config.pbtxt`, by model.
        labels: File of labels that `text_encoder` encodes when it loads, one per line.
        force: Replace a version that holds another checkpoint.

    Returns:
        The identity of the version.

    Raises:
        RepositoryError: The version holds another checkpoint and `force` is not set.
    """
    if not force:
        _check_same_checkpoint(checkpoint, output, version)
    placed = with_one_text_encoder(parameters)
    with _staging(output) as staging:
        configs = {
            model: python_configuration(model, placed.get(model, {}), [version]) for model in PYTHON_MODELS
        }
        identity = _stage(staging, checkpoint, version, fingerprint, configs, labels)
        _install(staging, output, version)
    _compile(output, version)
    return identity


def add_version(checkpoint: Checkpoint, output: Path, version: int, *, fingerprint: str, served: int) -> str:
    """Write a version next to the served one, so that Triton loads both. The ensembles do not change.

    Args:
        checkpoint: The weights and settings.
        output: A model repository.
        version: A number that is not in use.
        fingerprint: The `version_fingerprint` for the manifests.
        served: The served version. The new one takes over its settings of the Python models.

    Returns:
        The identity of the version.
    """
    with _staging(output) as staging:
        labels = output / "text_encoder" / str(served) / PRELOADED_LABELS
        configs = {
            model: with_versions((output / model / CONFIG).read_text(encoding="utf-8"), [served, version])
            for model in PYTHON_MODELS
        }
        identity = _stage(
            staging, checkpoint, version, fingerprint, configs, labels if labels.exists() else None
        )
        for model in ENSEMBLES:
            (staging / model / CONFIG).unlink()
        _install(staging, output, version)
    _compile(output, version)
    return identity


def _stage(
    staging: Path,
    checkpoint: Checkpoint,
    version: int,
    fingerprint: str,
    configs: Mapping[str, str],
    labels: Path | None,
) -> str:
    """Write all files of a version, and return its identity. `configs` are those of the Python models."""
    for model in PYTHON_MODELS:
        _stage_model(staging / model, model, checkpoint, version, configs[model])
    if labels is not None:
        shutil.copyfile(labels, staging / "text_encoder" / str(version) / PRELOADED_LABELS)
    parameters = {model: answer_parameters(model, read_configuration(configs[model])) for model in configs}
    image_processor = parameters["image_preprocess"]["image_processor"]
    check_image_processor(checkpoint.source, checkpoint.processor, image_processor)
    if parameters["vision_encoder"].get("precision") == "int8":
        _save_sample_pixels(
            checkpoint.vision["image_size"], staging / "vision_encoder" / str(version) / SAMPLE_PIXELS
        )
    files = {model: _file_facts(staging / model / str(version)) for model in PYTHON_MODELS}
    digests = {
        model: {name: facts["sha256"] for name, facts in found.items()} for model, found in files.items()
    }
    identity = version_identity(digests, parameters)
    for model in ENSEMBLES:
        config = ensemble_configuration(model, checkpoint, version, identity, image_processor)
        files[model] = _stage_ensemble(staging / model, version, config)
    for model in MODELS:
        manifest = {
            "fingerprint": fingerprint,
            "identity": identity,
            "checkpoint": {
                name: getattr(checkpoint, name) for name in ("source", "revision", "sha256", "random")
            },
            "parameters": parameters.get(model, {}),
            "files": files[model],
        }
        _write_json(staging / model / str(version) / MANIFEST, manifest)
    return identity


def _compile(output: Path, version: int) -> None:
    """Write the bytecode now. Python would write it at load, which Triton takes for a changed version."""
    for model in PYTHON_MODELS:
        compileall.compile_dir(output / model / str(version), quiet=1)


def _check_same_checkpoint(checkpoint: Checkpoint, output: Path, version: int) -> None:
    for model in MODELS:
        present = read_manifest(output / model / str(version))
        if present and present["checkpoint"]["sha256"] != checkpoint.sha256:
            raise RepositoryError(
                f"version {version} of {model} in {output} holds {present['checkpoint']['source']}; "
                "choose another repository or --version, or replace this version with "
                "`tritonclip-server prepare --force`"
            )


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    existed = output.exists()
    output.mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(STAGING_PREFIX + "*"):
        shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=output))
    try:
        yield staging
    finally:
        shutil.rmtree(staging)
        if not existed and not any(output.iterdir()):
            output.rmdir()


def _stage_model(target: Path, model: str, checkpoint: Checkpoint, version: int, config: str) -> None:
    directory = target / str(version)
    directory.mkdir(parents=True)
    for source in sorted((MODEL_REPOSITORY / model / "1").glob("*.py")):
        shutil.copyfile(source, directory / source.name)
    shutil.copytree(MODEL_REPOSITORY / COMMON, directory / COMMON, ignore=_BYTECODE)
    PART_WRITERS.get(model, lambda *_: None)(checkpoint, directory)
    (target / CONFIG).write_text(config, encoding="utf-8")


def _stage_ensemble(target: Path, version: int, config: str) -> dict[str, dict[str, Any]]:
    directory = target / str(version)
    directory.mkdir(parents=True)
    (directory / CONFIG).write_text(config, encoding="utf-8")  # for a rollback
    (target / CONFIG).write_text(config, encoding="utf-8")
    return _file_facts(directory)


def _vision_part(checkpoint: Checkpoint, directory: Path) -> None:
    _write_json(directory / "vision.json", checkpoint.vision)
    _save_tower(
        checkpoint.tower("vision_model.", "visual_projection.weight"), directory / "vision.safetensors"
    )


def _text_part(checkpoint: Checkpoint, directory: Path) -> None:
    _write_json(directory / "text.json", checkpoint.text)
    _save_tower(checkpoint.tower("text_model.", "text_projection.weight"), directory / "text.safetensors")
    (directory / "tokenizer.json").write_text(checkpoint.tokenizer, encoding="utf-8")


def _save_tower(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file  # imports torch, which an up-to-date repository does not need

    save_file(tensors, path)
    path.chmod(0o644)  # safetensors denies access to other users, and a container runs as one
    advance(path.stat().st_size)


def _save_sample_pixels(size: int, path: Path) -> None:
    """Write the demo images as uint8 [n, 3, size, size]."""
    pixels = []
    for image in sorted(DEMO_IMAGES.iterdir()):
        if image.suffix != ".json":
            with Image.open(image) as opened:
                fitted = ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            pixels.append(np.asarray(fitted).transpose(2, 0, 1))
    np.save(path, np.stack(pixels))


def _preprocess_part(checkpoint: Checkpoint, directory: Path) -> None:
    _write_json(directory / "processor.json", checkpoint.processor)


def _similarity_part(checkpoint: Checkpoint, directory: Path) -> None:
    # exp differs in its last digit between machines; the digits of a float32 do not.
    _write_json(directory / "similarity.json", {"logit_scale": float(f"{checkpoint.logit_scale:.9g}")})


PART_WRITERS: dict[str, Callable[[Checkpoint, Path], None]] = {
    "vision_encoder": _vision_part,
    "text_encoder": _text_part,
    "image_preprocess": _preprocess_part,
    "similarity": _similarity_part,
}
"""Writer of each model's part of a checkpoint."""


def _file_facts(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the size and SHA-256 of each file of a version."""
    return {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def describe_version(output: Path, version: int) -> str:
    """Return the checkpoint and the start of the identity that the manifest of a version names."""
    manifest = read_manifest(output / ENSEMBLES[0] / str(version))
    if manifest is None:
        return "unknown"
    identity = str(manifest.get("identity", ""))[:SHOWN_DIGITS]
    return f"{manifest['checkpoint']['source']}" + (f" (identity {identity})" if identity else "")


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a version of a model; None if there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest


def _is_unchanged(folder: Path, version: int, fingerprint: str) -> bool:
    """Return whether a model's version has this fingerprint, its files, and its `answer_parameters`."""
    directory = folder / str(version)
    manifest = read_manifest(directory)
    if manifest is None or manifest.get("fingerprint") != fingerprint:
        return False
    try:
        config = read_configuration((folder / CONFIG).read_text(encoding="utf-8"))
        return answer_parameters(folder.name, config) == manifest["parameters"] and all(
            (directory / name).stat().st_size == facts["bytes"]
            and file_sha256(directory / name) == facts["sha256"]
            for name, facts in manifest["files"].items()
        )
    except (OSError, text_format.ParseError, KeyError):
        return False


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _install(staging: Path, output: Path, version: int) -> None:
    """Rename the staged models into place, and undo all renames if one fails."""
    done: list[tuple[Path, Path]] = []
    try:
        for model in MODELS:
            for part in (str(version), CONFIG):
                if not (staging / model / part).exists():
                    continue
                target, replaced = output / model / part, staging / f"replaced-{model}-{part}"
                target.parent.mkdir(exist_ok=True)
                if target.exists():
                    target.rename(replaced)
                    done.append((target, replaced))
                (staging / model / part).rename(target)
                done.append((staging / model / part, target))
    except OSError:
        for source, target in reversed(done):
            target.rename(source)
        raise
