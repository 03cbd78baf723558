"""Metrics of the models in a running server: images, labels, dynamic batches and load times."""

import re
import time

import numpy as np
import pytest

from clip_common.metrics import PUBLISH_INTERVAL_S
from tests.helpers.calls import metric, together
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.helpers.waiting import settled, wait_until
from tritonclip import Client, InvalidInputError

IMAGES = ("image_preprocess", "vision_encoder")
WORKING = (*IMAGES, "text_encoder", "similarity")


@pytest.fixture
def clip(server):
    with Client(server.grpc_url) as client:
        yield client


def batch_sums(server):
    """Return the sums and counts of the batch metrics of each model."""
    names = ("requests_sum", "requests_count", "size_sum", "seconds_sum", "seconds_count")
    return {
        model: [metric(server, f"tritonclip_batch_{name}", model=model) for name in names]
        for model in WORKING
    }


@pytest.fixture
def before(server):
    """The batch metrics before the test, once those of earlier requests are published."""
    return settled(lambda: batch_sums(server), pause_s=PUBLISH_INTERVAL_S)


def test_images_and_labels_are_counted_rather_than_rows(server, clip, before):
    def totals():
        images = [metric(server, "tritonclip_images_total", model=model) for model in IMAGES]
        return [*images, metric(server, "tritonclip_labels_total", model="text_encoder")]

    totals_before = totals()
    clip.classify([encode(noise(40, 30), "PNG")] * 5, ["a", "b", "c"])
    expected = np.add(totals_before, [5, 5, 3]).tolist()
    wait_until(lambda: totals() == expected, lambda: f"{totals()} is not {expected}")


def test_images_of_a_failed_request_are_not_counted(server, clip, before):
    images = metric(server, "tritonclip_images_total", model="image_preprocess")
    with pytest.raises(InvalidInputError):
        clip.embed_images([b"no image", encode(noise(40, 30), "PNG")])
    clip.embed_images(encode(noise(40, 30), "PNG"))  # published last, and with its image

    def counted():
        return metric(server, "tritonclip_images_total", model="image_preprocess") - images

    wait_until(counted, "no image was counted")
    assert counted() == 1


def test_batch_metrics_add_up_to_the_requests_and_images_sent(server, clip, before):
    image = encode(noise(60, 50), "JPEG")
    answers = together(24, lambda index: clip.classify([image] * (1 + index % 3), ["a", "b"]))
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    images = sum(1 + index % 3 for index in range(24))
    sizes = {"image_preprocess": images, "vision_encoder": images, "text_encoder": 48, "similarity": 0}

    def increases():
        after = batch_sums(server)
        return {model: np.subtract(after[model], before[model]) for model in WORKING}

    def is_published():
        return all(
            requests == 24 and size == sizes[model] and timed == batches
            for model, (requests, batches, size, _, timed) in increases().items()
        )

    wait_until(is_published, lambda: f"the metrics do not add up: {increases()}")
    for _, batches, _, seconds, _ in increases().values():
        assert 1 <= batches <= 24
        assert seconds > 0


def test_every_model_instance_publishes_its_load_time(server):
    started = dict(
        re.findall(r'^tritonclip_start_time_seconds\{.*instance="(\w+)".*\} (\S+)$', server.metrics(), re.M)
    )
    instances = {f"admission_0_{index}" for index in range(4)} | {f"{model}_0_0" for model in WORKING}
    assert set(started) == instances
    prepared = (server.repository / "clip_zero_shot" / "config.pbtxt").stat().st_mtime
    assert all(prepared <= float(value) <= time.time() for value in started.values())


def test_every_series_has_the_labels_of_its_instance(server, clip):
    clip.classify(encode(noise(40, 30), "PNG"), ["a"])
    series = re.findall(r"^tritonclip_\w+\{(.*)\} ", server.metrics(), re.MULTILINE)
    assert series
    assert all(
        {"model", "version", "instance", "device"} <= set(re.findall(r'(\w+)="', one)) for one in series
    )


def test_readme_names_every_metric(server):
    names = set(re.findall(r"^# TYPE (tritonclip_\w+)", server.metrics(), re.MULTILINE))
    readme = (ROOT / "model_repository" / "README.md").read_text(encoding="utf-8")
    assert len(names) >= 14
    assert all(f"`{name}`" in readme for name in names)
