"""Triton model `text_encoder`: texts to unit-norm text embeddings, through the label-embedding cache."""

import clip_common.cpu  # noqa: F401  Before torch is.

# isort: split
import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_cache import LabelCache
from clip_common.groups import Elements, Outputs, Parameters, read_elements, split_rows
from clip_common.metrics import instance_labels, publish_model_info
from clip_common.responder import Responder
from clip_common.times import now_us
from clip_common.tower import set_up_torch
from clip_labels import CacheCounts, LabelEmbedder, check_label, read_label_file
from clip_text import TextEncoder, TextTokenizer, load_text_model

PRELOADED_LABELS = "preload_labels.txt"


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads tokenizer and tower, encodes once, and encodes the label file."""
        self._responder = Responder(pb_utils, args, unit="labels")
        parameters = Parameters(json.loads(args["model_config"]))
        directory = Path(__file__).parent
        # A label is encoded once and then kept, so what bfloat16 would save is little; its errors are not.
        device, dtype = set_up_torch(args, parameters, exact_on_cpu=True)
        self._max_labels = parameters.integer("max_labels", minimum=1)
        self._max_request_bytes = parameters.integer("max_request_bytes", minimum=1)
        self._max_label_bytes = parameters.integer("max_label_bytes", minimum=1)
        max_bucket = parameters.integer("max_bucket", minimum=1)
        settings = json.loads((directory / "text.json").read_text(encoding="utf-8"))
        model = load_text_model(directory)
        model.set_precision(dtype)
        tokenizer = TextTokenizer(directory / "tokenizer.json", settings["max_position_embeddings"])
        encoder = TextEncoder(model.to(device), tokenizer, device, max_bucket, settings["pad_token_id"])
        encoder.encode(["a photo of a cat"])
        self._cache = LabelCache(parameters.integer("cache_bytes"), settings["projection_dim"])
        self._embedder = LabelEmbedder(encoder.encode, self._cache)
        self._metrics = _CacheMetrics(args)
        preloaded = read_label_file(directory / PRELOADED_LABELS)
        if preloaded:
            self._count(self._embedder.embed(preloaded)[2])
        precision = str(dtype).removeprefix("torch.")
        self._info = publish_model_info(pb_utils, args, directory, precision=precision, execution="eager")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Publishes the last figures."""
        self._responder.close()

    def _parse(self, request: Any) -> Elements:
        times = self._responder.times(request)
        tensor = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        group = read_elements(
            "label", tensor, max_count=self._max_labels, max_bytes=self._max_request_bytes, times=times
        )
        for position, text in enumerate(group.items):
            if text not in self._cache:  # what is held was found good before
                check_label(text, position, tensor.shape, self._max_label_bytes)
        return group

    def _run(self, groups: list[Elements]) -> list[Outputs | Exception]:
        began_us = now_us()
        embeds, token_counts, counts = self._embedder.embed(
            [text for group in groups for text in group.items]
        )
        self._count(counts)
        took_us = now_us() - began_us
        sizes = [len(group.items) for group in groups]
        parts = zip(groups, split_rows(embeds, sizes), split_rows(token_counts, sizes), strict=True)
        return [
            {
                "text_embeds": rows.reshape(*group.shape, -1),
                "token_counts": tokens.reshape(group.shape),
                "times": group.times.after_work(took_us).tensor(group.shape[0]),
            }
            for group, rows, tokens in parts
        ]

    def _count(self, counts: CacheCounts) -> None:
        self._metrics.update(counts, len(self._cache), self._cache.size_bytes)


class _CacheMetrics:
    """The cache's Prometheus series, one of each a model instance."""

    def __init__(self, args: dict[str, str]) -> None:
        labels = instance_labels(args)
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = [
            pb_utils.MetricFamily(name=f"tritonclip_label_cache_{name}", description=description, kind=kind)
            for name, description, kind in (
                ("hits_total", "Labels answered without encoding them", counter),
                ("misses_total", "Labels encoded", counter),
                ("evictions_total", "Label embeddings dropped to make room", counter),
                ("entries", "Label embeddings held", gauge),
                ("bytes", "Bytes held by the label-embedding cache", gauge),
            )
        ]
        self._hits, self._misses, self._evictions, self._entries, self._bytes = (
            family.Metric(labels=labels) for family in self._families
        )

    def update(self, counts: CacheCounts, entries: int, size_bytes: int) -> None:
        """Publishes what one look-up did; only what has changed, for each figure is a message to Triton."""
        if counts.hits:
            self._hits.increment(counts.hits)
        if not counts.misses:
            return
        self._misses.increment(counts.misses)
        self._evictions.increment(counts.evictions)
        self._entries.set(entries)
        self._bytes.set(size_bytes)
