"""Metrics of the models in a running server: images, labels, dynamic batches and load times."""

import re
import time

import numpy as np
import pytest

from tests.helpers.calls import metric, together
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tritonclip import Client, InvalidInputError

TIMEOUT_S = 10
IMAGES = ("image_preprocess", "vision_encoder")
WORKING = (*IMAGES, "text_encoder", "similarity")


@pytest.fixture
def clip(server):
    with Client(server.grpc_url) as client:
        yield client


def wait_for_metric(server, name, wanted, **labels):
    """Wait until a metric is at least `wanted` and return it; metrics are published after a delay."""
    deadline = time.monotonic() + TIMEOUT_S
    while (value := metric(server, name, **labels)) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def test_images_and_labels_are_counted_rather_than_rows(server, clip):
    before = {model: metric(server, "tritonclip_images_total", model=model) for model in IMAGES}
    labels_before = metric(server, "tritonclip_labels_total", model="text_encoder")
    clip.classify([encode(noise(40, 30), "PNG")] * 5, ["a", "b", "c"])
    for model in IMAGES:
        wanted = before[model] + 5
        assert wait_for_metric(server, "tritonclip_images_total", wanted, model=model) == wanted
    assert wait_for_metric(server, "tritonclip_labels_total", labels_before + 3) == labels_before + 3


def test_images_of_a_failed_request_are_not_counted(server, clip):
    before = metric(server, "tritonclip_images_total", model="image_preprocess")
    batches = metric(server, "tritonclip_batch_requests_count", model="image_preprocess")
    with pytest.raises(InvalidInputError):
        clip.embed_images([b"no image", encode(noise(40, 30), "PNG")])
    wanted = batches + 1
    assert (
        wait_for_metric(server, "tritonclip_batch_requests_count", wanted, model="image_preprocess") == wanted
    )
    assert metric(server, "tritonclip_images_total", model="image_preprocess") == before


def test_batch_metrics_add_up_to_the_requests_and_images_sent(server, clip):
    def sums(model):
        names = ("requests_sum", "requests_count", "size_sum", "seconds_sum", "seconds_count")
        return np.array([metric(server, f"tritonclip_batch_{name}", model=model) for name in names])

    before = {model: sums(model) for model in WORKING}
    image = encode(noise(60, 50), "JPEG")
    answers = together(24, lambda index: clip.classify([image] * (1 + index % 3), ["a", "b"]))
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    images = sum(1 + index % 3 for index in range(24))
    for model in WORKING:
        total = before[model][0] + 24
        assert wait_for_metric(server, "tritonclip_batch_requests_sum", total, model=model) == total
        time.sleep(0.1)  # the other metrics of the same batch are published after this one
        requests, batches, size, seconds, timed = sums(model) - before[model]
        assert requests == 24
        assert 1 <= batches <= 24
        assert timed == batches
        assert 0 < seconds < TIMEOUT_S * batches
        assert size == {"text_encoder": 48, "similarity": 0}.get(model, images)


def test_every_model_instance_publishes_its_load_time(server):
    started = dict(
        re.findall(r'^tritonclip_start_time_seconds\{instance="(\w+)".*\} (\S+)$', server.metrics(), re.M)
    )
    instances = {f"admission_0_{index}" for index in range(4)} | {f"{model}_0_0" for model in WORKING}
    assert set(started) == instances
    assert all(time.time() - 3600 < float(value) <= time.time() for value in started.values())


def test_every_series_has_model_version_and_instance_labels(server, clip):
    clip.classify(encode(noise(40, 30), "PNG"), ["a"])
    series = re.findall(r"^tritonclip_\w+\{(.*)\} ", server.metrics(), re.MULTILINE)
    assert series
    assert all({"model", "version", "instance"} <= set(re.findall(r'(\w+)="', one)) for one in series)


def test_readme_names_every_metric(server):
    names = set(re.findall(r"^# TYPE (tritonclip_\w+)", server.metrics(), re.MULTILINE))
    readme = (ROOT / "model_repository" / "README.md").read_text(encoding="utf-8")
    assert len(names) >= 14
    assert all(f"`{name}`" in readme for name in names)
