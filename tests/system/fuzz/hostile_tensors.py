"""Requests whose tensors, names, types, shapes, sizes, outputs or models are wrong.

`NEVER_SENT` lists requests that are not generated, with the reasons.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.system.fuzz.healthy_requests import DIM, LABELS, SIDE, healthy
from tests.system.fuzz.wire import Request, Tensor, array_tensor, bytes_elements, bytes_tensor

SIZES = st.sampled_from(
    (-(2**63), -1, 0, 1, 2, 3, 7, 65, SIDE, DIM, 2**20, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1)
)
DATATYPES = (
    "BOOL",
    "UINT8",
    "INT32",
    "INT64",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
    "STRING",
    "",
    "FP32 ",
    "fp32",
    "JSON",
)
NAMES = (
    "",
    "imagE",
    "image",
    "labels",
    "text",
    "times",
    "content",
    "pixel_values",
    "image_embeds",
    "text_embeds",
    "gate",
    "ü",
    "x" * 3000,
)
MODELS = ("", "clip", "CLIP_ZERO_SHOT", "clip_zero_shot ", "admission", "ü", "m" * 3000, "%00", "a b", "..")
VERSIONS = ("0", "-1", "2", "1.5", "latest", "99999999999999999999", " 1", "1" * 2000)
PREFIXES = (
    b"",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x05\x00\x00\x00abc",
    b"\x00\x00\x00\x80",
    b"\x00" * 4,
    b"\x00" * 400,
    b"\xff" * 64,
)


def _with_tensor(request: Request, position: int, **changes: Any) -> Request:
    tensors = list(request.tensors)
    tensors[position % len(tensors)] = replace(tensors[position % len(tensors)], **changes)
    return replace(request, tensors=tuple(tensors), description=f"{position}: {str(changes)[:300]}")


def _numbers(values: list[float], rows: tuple[int, int], dim: int, both: bool) -> Request:
    generator = np.random.default_rng(len(values))
    arrays = [generator.normal(size=(1, count, dim)).astype(np.float32) for count in rows]
    for number, value in enumerate(values):
        array = arrays[number % 2 if both else 0].reshape(-1)
        with np.errstate(over="ignore"):
            array[(number * 997) % len(array)] = np.float32(value)
    named = zip(("image_embeds", "text_embeds"), arrays, strict=True)
    tensors = tuple(array_tensor(name, array) for name, array in named)
    return Request("similarity", tensors, description=f"{values} in {rows} of {dim}")


def embeds_with_odd_numbers() -> st.SearchStrategy[Request]:
    """Generate embeddings with NaN, infinity or numbers of any size."""
    odd = st.sampled_from((np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 0.0, -0.0, 1e20))
    values = st.lists(st.one_of(odd, st.floats(width=32)), min_size=1, max_size=6)
    rows = st.tuples(st.integers(1, 5), st.integers(1, 5))
    return st.builds(_numbers, values, rows, st.sampled_from((1, 2, DIM, 700)), st.booleans())


def _embeds(image: tuple[int, int, int], text: tuple[int, int, int]) -> Request:
    shapes = {"image_embeds": image, "text_embeds": text}
    tensors = tuple(array_tensor(name, np.full(shape, 0.1, np.float32)) for name, shape in shapes.items())
    return Request("similarity", tensors, description=str(shapes))


def _pixels(model: str, shape: tuple[int, ...]) -> Request:
    return Request(model, (array_tensor("pixel_values", np.zeros(shape, np.uint8)),), description=str(shape))


def consistent_shapes() -> st.SearchStrategy[Request]:
    """Generate small shapes of any kind, with as many bytes as they need."""
    small = st.sampled_from((0, 1, 2, 3, 5, 65))
    edge = st.sampled_from((0, 1, 3, SIDE - 1, SIDE, SIDE + 1))
    shape = st.tuples(small, small, st.sampled_from((0, 1, DIM)))
    pixels = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4), edge, edge)
    pixel_models = st.sampled_from(("vision_encoder", "clip_pixel_embedding"))
    return st.one_of(st.builds(_embeds, shape, shape), st.builds(_pixels, pixel_models, pixels))


NEVER_SENT = {
    "requests without rows to a composing model": "Triton 2.51's dynamic batcher never answers a "
    "request whose batch dimension is 0; the ensembles reject it",
}
"""Requests that are not generated, with the reasons."""


def is_never_sent(request: Request) -> bool:
    """Return True if `NEVER_SENT` lists a request."""
    return not request.model.startswith("clip_") and any(one.shape[:1] == (0,) for one in request.tensors)


def _with_times(model: str, times: list[int], rows: int) -> Request:
    array = np.array(times * rows, np.int64).reshape(rows, -1)
    tensor = Tensor("times", "INT64", array.shape, array.tobytes())
    return replace(
        healthy()[model], tensors=(*healthy()[model].tensors, tensor), description=f"times {times} x {rows}"
    )


def forged_times() -> st.SearchStrategy[Request]:
    """Generate direct calls of a composing model with forged `times`, which `admission` normally sets."""
    time = st.one_of(
        st.sampled_from((-(2**63), -1, 0, 1, 2**62, 2**63 - 1)), st.integers(-(2**63), 2**63 - 1)
    )
    models = st.sampled_from(("image_preprocess", "vision_encoder", "text_encoder", "similarity"))
    return st.builds(_with_times, models, st.lists(time, min_size=5, max_size=7), st.integers(1, 2))


def _without(request: Request, position: int) -> Request:
    kept = [one for index, one in enumerate(request.tensors) if index != position % len(request.tensors)]
    return replace(request, tensors=tuple(kept), description=f"without tensor {position}")


def _surplus(request: Request, name: str) -> Request:
    return replace(
        request, tensors=(*request.tensors, bytes_tensor(name, [b"x"])), description=f"surplus {name[:20]}"
    )


def _admission(tensors: list[str]) -> Request:
    known = {
        "content": bytes_tensor("content", LABELS),
        "pixel_values": healthy()["vision_encoder"].tensors[0],
    }
    return Request("admission", tuple(known[name] for name in tensors), description=f"inputs {tensors}")


def tensor_requests() -> st.SearchStrategy[Request]:
    """Generate requests whose tensors, names, types, shapes, sizes, outputs or models are wrong."""
    request = st.sampled_from(sorted(healthy())).map(healthy().__getitem__)
    position = st.integers(0, 1)
    shapes = st.lists(SIZES, max_size=6).map(tuple)
    data = st.one_of(
        st.binary(max_size=64),
        st.sampled_from(PREFIXES),
        st.integers(0, 5000).map(bytes),
        st.lists(st.binary(max_size=9), max_size=70).map(bytes_elements),
    )
    columns = st.integers(0, 9)
    return st.one_of(
        st.builds(lambda r, p, v: _with_tensor(r, p, shape=v), request, position, shapes),
        st.builds(lambda r, p, v: _with_tensor(r, p, shape=(1, v)), request, position, columns),
        st.builds(
            lambda r, p, v: _with_tensor(r, p, datatype=v), request, position, st.sampled_from(DATATYPES)
        ),
        st.builds(lambda r, p, v: _with_tensor(r, p, name=v), request, position, st.sampled_from(NAMES)),
        st.builds(lambda r, p, v: _with_tensor(r, p, data=v), request, position, data),
        st.builds(
            lambda r, p, v, n: _with_tensor(r, p, data=v, shape=(1, n)), request, position, data, columns
        ),
        st.builds(_without, request, position),
        st.builds(_surplus, request, st.sampled_from(NAMES)),
        st.builds(lambda r, v: replace(r, model=v), request, st.sampled_from(MODELS)),
        st.builds(lambda r, v: replace(r, version=v), request, st.sampled_from(VERSIONS)),
        st.builds(
            lambda r, v: replace(r, outputs=tuple(v)),
            request,
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        ),
        st.builds(_admission, st.lists(st.sampled_from(("content", "pixel_values")), unique=True)),
        embeds_with_odd_numbers(),
        consistent_shapes(),
        forged_times(),
    ).filter(lambda made: not is_never_sent(made))
