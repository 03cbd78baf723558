"""The workload is reproducible, follows the configured proportions, and sends valid pictures."""

from __future__ import annotations

import io
import itertools
import random
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from loadtest.load.pictures import PICTURE_FORMATS, draw_pictures
from loadtest.load.settings import LoadSettings
from loadtest.load.workload import EMPTY_TEXT, FAULTS, VOCABULARY, Job, Workload, draw_distinct, zipf_weights
from PIL import Image

SETTINGS = LoadSettings(bad_share=0.0)
MANY = 20_000


@cache
def take(count: int, settings: LoadSettings = SETTINGS, worker: int = 0, user: int = 0) -> list[Job]:
    return list(itertools.islice(Workload(settings).jobs(worker, user), count))


def test_streams_are_reproducible_and_differ_between_users():
    assert take(200) == take.__wrapped__(200)
    others = [take(200, worker=1), take(200, user=1), take(200, replace(SETTINGS, seed=1))]
    assert all(other != take(200) for other in others)


def test_mix_follows_the_weights():
    counts = Counter(job.kind for job in take(MANY))
    assert [counts[kind] / MANY for kind, _ in SETTINGS.mix] == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    only = replace(SETTINGS, mix=(("embed_texts", 1.0),))
    assert {job.kind for job in take(100, only)} == {"embed_texts"}


def test_label_sets_follow_zipfs_law():
    workload = Workload(SETTINGS)
    counts = Counter(job.texts for job in take(MANY) if job.kind == "classify")
    total, whole = sum(counts.values()), zipf_weights(SETTINGS.label_sets, 1.0)[-1]
    for rank in (1, 2, 10):
        share = counts[workload.label_sets[rank - 1]] / total
        assert share == pytest.approx(1 / rank / whole, rel=0.15)


def test_exponent_0_draws_uniformly():
    counts = Counter(job.texts for job in take(MANY, replace(SETTINGS, zipf=0.0, label_sets=4)) if job.texts)
    most = counts.most_common(4)
    assert most[0][1] / most[3][1] < 1.2


def test_labels_of_a_set_are_distinct():
    for labels in Workload(SETTINGS).label_sets:
        assert len(set(labels)) == len(labels) >= 2
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_drawing_more_values_than_exist_returns_all():
    assert set(draw_distinct(random.Random(0), "abc", [1, 2, 3], 9)) == set("abc")


def test_most_requests_have_one_image():
    counts = Counter(len(job.images) for job in take(MANY) if job.images)
    assert counts[1] / sum(counts.values()) == pytest.approx(0.9, abs=0.02)
    assert max(counts) > 1
    assert all(0 <= image < SETTINGS.pictures for job in take(1000) for image in job.images)


def test_bad_requests_have_their_share_and_a_valid_index():
    jobs = take(MANY, replace(SETTINGS, bad_share=0.1))
    bad = [job for job in jobs if job.fault]
    assert len(bad) / MANY == pytest.approx(0.1, abs=0.01)
    for job in bad:
        assert job.fault.what in FAULTS[job.kind]
        assert 0 <= job.fault.index < len(job.texts if job.fault.what == EMPTY_TEXT else job.images)
    assert any(job.fault.index > 0 for job in bad)
    assert not any(job.fault for job in take(1000))


def test_pictures_are_reproducible_files_in_the_listed_formats():
    files = draw_pictures(20, seed=3)
    assert files[:2] == draw_pictures(2, seed=3)
    assert files[0] != draw_pictures(1, seed=4)[0]
    assert len(set(files)) == 20
    for file, form in zip(files, PICTURE_FORMATS, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            assert (image.format, image.size) == (form.format, (form.width, form.height))
            image.load()
