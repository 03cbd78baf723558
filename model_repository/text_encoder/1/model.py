"""Triton model `text_encoder`: texts to unit-norm text embeddings, through the label-embedding cache."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

import clip_common.torch_setup  # noqa: F401 (before all that imports torch)
from clip_cache import LabelCache
from clip_common.groups import DEFERRED, Elements, Outcome, read_elements, split_rows
from clip_common.metrics import MetricFactory, publish_model_info
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import now_us
from clip_common.tower import set_up_torch
from clip_common.version import check_version
from clip_labels import LabelEmbedder, LookupCounts, check_label, read_label_file
from clip_text import MAX_TOKENS, TextEncoder, TextTokenizer, load_text_model
from clip_turns import Answer, Job, Turns

PRELOADED_LABELS = "preload_labels.txt"


class Texts(NamedTuple):
    """The texts of a request."""

    request: Any
    group: Elements
    new_bytes: int
    """Size of the texts that are not cached. Tokens are at least a byte each, apart from start and end."""


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer and tower, warm them up, and encode the labels to preload."""
        metrics = MetricFactory(pb_utils, args)
        self._responder = Responder(pb_utils, metrics, unit="labels")
        config = json.loads(args["model_config"])
        parameters = Parameters(config)
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
        token_limit: int = settings["max_position_embeddings"]
        self._token_limits = np.full((config["max_batch_size"], 1), token_limit, np.int32)
        tokenizer = TextTokenizer(directory / "tokenizer.json", token_limit)
        self._max_tokens = MAX_TOKENS[device.type]
        limits = max_bucket, self._max_tokens, settings["pad_token_id"]
        encoder = TextEncoder(model.to(device), tokenizer, device, *limits)
        encoder.encode(["a photo of a cat"])
        self._cache = LabelCache(parameters.integer("cache_bytes"), settings["projection_dim"])
        self._cache_metrics = _CacheMetrics(metrics)
        self._embedder = LabelEmbedder(encoder.encode, self._cache)
        self._turns = Turns(
            tokenizer, encoder.encode_tokens, self._cache, self._max_tokens, self._publish_encoded
        )
        preloaded = read_label_file(directory / PRELOADED_LABELS)
        if preloaded:
            self._publish(self._embedder.embed(preloaded)[2])
        precision = str(dtype).removeprefix("torch.")
        publish_model_info(metrics, pb_utils.Logger, directory, precision=precision, execution="eager")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Finish the requests that are executed in turns, and publish the remaining metrics."""
        self._turns.close()
        self._responder.close()

    def _parse(self, request: Any) -> Texts:
        times = self._responder.check_times(request)
        tensor = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        group = read_elements(
            "label",
            tensor,
            max_count=self._max_labels,
            max_bytes=self._max_request_bytes,
            times=times,
            is_cancelled=request.is_cancelled,
        )
        new_bytes = 0
        for position, text in enumerate(group.items):
            if text not in self._cache:  # cached labels were checked before
                check_label(text, position, tensor.shape, self._max_label_bytes)
                new_bytes += len(text)
        return Texts(request, group, new_bytes)

    def _run(self, batch: list[Texts]) -> list[Outcome]:
        """Embed the texts of small requests, and defer large ones to the turns."""
        if sum(texts.new_bytes for texts in batch) <= self._max_tokens:
            return self._embed([texts.group for texts in batch])
        known = [texts.group for texts in batch if not texts.new_bytes]
        outcomes = iter(self._embed(known) if known else [])
        return [self._defer(texts) if texts.new_bytes else next(outcomes) for texts in batch]

    def _defer(self, texts: Texts) -> Outcome:
        respond, group = self._responder.defer(texts.request), texts.group

        def finish(answer: Answer | Exception) -> None:
            if isinstance(answer, Exception):
                respond(answer)
                return
            self._publish(LookupCounts(hits=group.size - len(job.found)))
            respond(self._outputs(group, answer.embeds, answer.token_counts, answer.worked_us))

        job = Job(group, finish, *self._cache.look_up(group.items))
        self._turns.add(job)
        return DEFERRED

    def _embed(self, groups: list[Elements]) -> list[Outcome]:
        started_us = now_us()
        embeds, token_counts, counts = self._embedder.embed(
            [text for group in groups for text in group.items]
        )
        self._publish(counts)
        took_us = now_us() - started_us
        sizes = [group.size for group in groups]
        parts = zip(groups, split_rows(embeds, sizes), split_rows(token_counts, sizes), strict=True)
        return [self._outputs(*part, took_us) for part in parts]

    def _outputs(
        self, group: Elements, embeds: np.ndarray, token_counts: np.ndarray, took_us: int
    ) -> Outcome:
        times, rows = group.times.after(text_us=took_us), group.shape[0]
        return {
            "text_embeds": embeds.reshape(*group.shape, -1),
            "token_counts": token_counts.reshape(group.shape),
            "token_limit": self._token_limits[:rows],
            "times": times.tensor(rows),
            "timings_us": times.timings(rows, now_us()),
        }

    def _publish_encoded(self, encoded: int, evicted: int) -> None:
        self._publish(LookupCounts(misses=encoded, evictions=evicted))

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
        """Count the changes of one lookup."""
        self._hits.increment(counts.hits)
        self._misses.increment(counts.misses)
        self._evictions.increment(counts.evictions)
        self._entries.set(entries)
        self._bytes.set(size_bytes)
