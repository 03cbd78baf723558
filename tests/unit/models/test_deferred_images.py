"""Requests that are decoded next to the batches."""

import threading

import pytest

from clip_common.groups import Elements
from clip_deferred import DeferredRequests, is_plain
from tests.helpers.pictures import encode, noise

PLAIN, OTHER = encode(noise(9, 8), "JPEG"), encode(noise(9, 8), "WEBP")


def group(*files):
    return Elements(list(files), (1, len(files)))


class Gate:
    """Decodes nothing until it is opened."""

    def __init__(self):
        self.opened = threading.Event()

    def decode(self, group):
        self.opened.wait(60)
        return {"pixel_values": group.size}


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def requests(gate):
    """At most two requests with at most five images."""
    made = DeferredRequests(gate.decode, 2, 5)
    yield made
    gate.opened.set()
    made.close()


@pytest.mark.parametrize(
    ("files", "expected"),
    [([PLAIN], True), ([PLAIN, b""], True), ([OTHER], False), ([PLAIN, OTHER], False), ([b"text"], False)],
)
def test_request_is_plain_if_all_its_images_are(files, expected):
    assert is_plain(group(*files)) is expected


def test_deferred_requests_are_answered_and_make_room(requests, gate):
    answers, left = [], threading.Semaphore(0)

    def respond(outcome):
        answers.append(outcome)
        left.release()

    assert requests.defer(group(OTHER, OTHER), lambda: respond)
    assert requests.defer(group(OTHER), lambda: respond)
    assert not requests.defer(group(OTHER), lambda: pytest.fail("it stays in its batch"))
    assert answers == []
    gate.opened.set()
    assert left.acquire(timeout=60) and left.acquire(timeout=60)
    assert sorted(answer["pixel_values"] for answer in answers) == [1, 2]
    assert requests.defer(group(OTHER), lambda: respond)


def test_images_of_deferred_requests_are_limited(requests):
    assert requests.defer(group(*[OTHER] * 4), lambda: lambda outcome: None)
    assert not requests.defer(group(OTHER, OTHER), lambda: pytest.fail("it stays in its batch"))
    assert requests.defer(group(OTHER), lambda: lambda outcome: None)


def test_closing_answers_the_deferred_requests(gate):
    requests, answers = DeferredRequests(gate.decode, 1, 5), []
    assert requests.defer(group(OTHER), lambda: answers.append)
    gate.opened.set()
    requests.close()
    assert answers == [{"pixel_values": 1}]
