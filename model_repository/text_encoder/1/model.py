"""Triton model `text_encoder`: texts to unit-norm text embeddings, through the label-embedding cache."""

import json
import os
from pathlib import Path
from typing import Any

# Idle OpenMP threads must sleep: spinning, they would keep cores from decoding and from the vision encoder.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import triton_python_backend_utils as pb_utils

from clip_cache import LabelCache
from clip_common.groups import Elements, Outcome, read_elements, split_rows
from clip_common.metrics import MetricFactory, publish_model_info
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import now_us
from clip_common.tower import set_up_torch
from clip_common.version import check_version
from clip_labels import LabelEmbedder, LookupCounts, check_label, read_label_file
from clip_text import TextEncoder, TextTokenizer, load_text_model

PRELOADED_LABELS = "preload_labels.txt"


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer and tower, warm them up, and encode the labels to preload."""
        metrics = MetricFactory(pb_utils, args)
        self._responder = Responder(pb_utils, metrics, unit="labels")
        parameters = Parameters(json.loads(args["model_config"]))
        self._max_labels = parameters.integer("max_labels", minimum=1)
        self._max_request_bytes = parameters.integer("max_request_bytes", minimum=1)
        self._max_label_bytes = parameters.integer("max_label_bytes", minimum=1)
        max_bucket = parameters.integer("max_bucket", minimum=1)
        directory = Path(__file__).parent
        check_version(directory, parameters)
        # Labels are encoded once and cached, so bfloat16 would save little time but cost accuracy every time.
        device, dtype = set_up_torch(args, parameters, exact_on_cpu=True)
        settings = json.loads((directory / "text.json").read_text(encoding="utf-8"))
        model = load_text_model(directory)
        model.set_precision(dtype)
        self._token_limit: int = settings["max_position_embeddings"]
        tokenizer = TextTokenizer(directory / "tokenizer.json", self._token_limit)
        encoder = TextEncoder(model.to(device), tokenizer, device, max_bucket, settings["pad_token_id"])
        encoder.encode(["a photo of a cat"])
        self._cache = LabelCache(parameters.integer("cache_bytes"), settings["projection_dim"])
        self._cache_metrics = _CacheMetrics(metrics)
        self._embedder = LabelEmbedder(encoder.encode, self._cache)
        preloaded = read_label_file(directory / PRELOADED_LABELS)
        if preloaded:
            self._publish(self._embedder.embed(preloaded)[2])
        precision = str(dtype).removeprefix("torch.")
        publish_model_info(metrics, pb_utils.Logger, directory, precision=precision, execution="eager")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Publish the remaining metrics."""
        self._responder.close()

    def _parse(self, request: Any) -> Elements:
        times = self._responder.check_times(request)
        tensor = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        group = read_elements(
            "label", tensor, max_count=self._max_labels, max_bytes=self._max_request_bytes, times=times
        )
        for position, text in enumerate(group.items):
            if text not in self._cache:  # cached labels were checked before
                check_label(text, position, tensor.shape, self._max_label_bytes)
        return group

    def _run(self, groups: list[Elements]) -> list[Outcome]:
        started_us = now_us()
        embeds, token_counts, counts = self._embedder.embed(
            [text for group in groups for text in group.items]
        )
        self._publish(counts)
        took_us = now_us() - started_us
        sizes = [len(group.items) for group in groups]
        parts = zip(groups, split_rows(embeds, sizes), split_rows(token_counts, sizes), strict=True)
        return [
            {
                "text_embeds": rows.reshape(*group.shape, -1),
                "token_counts": tokens.reshape(group.shape),
                "token_limit": np.full((group.shape[0], 1), self._token_limit, np.int32),
                "times": group.times.after_work(took_us).tensor(group.shape[0]),
            }
            for group, rows, tokens in parts
        ]

    def _publish(self, counts: LookupCounts) -> None:
        self._cache_metrics.update(counts, len(self._cache), self._cache.size_bytes)


class _CacheMetrics:
    """The Prometheus series of the label-embedding cache."""

    def __init__(self, factory: MetricFactory) -> None:
        self._hits = factory.counter("label_cache_hits_total", "Labels served without encoding them")
        self._misses = factory.counter("label_cache_misses_total", "Labels encoded")
        self._evictions = factory.counter(
            "label_cache_evictions_total", "Label embeddings evicted to make room"
        )
        self._entries = factory.gauge("label_cache_entries", "Label embeddings in the cache")
        self._bytes = factory.gauge("label_cache_bytes", "Size of the label-embedding cache in bytes")

    def update(self, counts: LookupCounts, entries: int, size_bytes: int) -> None:
        """Publish the changes of one lookup; unchanged series are skipped, because each costs a message."""
        if counts.hits:
            self._hits.increment(counts.hits)
        if not counts.misses:
            return
        self._misses.increment(counts.misses)
        self._evictions.increment(counts.evictions)
        self._entries.set(entries)
        self._bytes.set(size_bytes)
