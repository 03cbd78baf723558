"""Length of the path that a warm call takes through the client package."""

import sys
from collections import Counter
from pathlib import Path

import tritonclip
from tests.helpers.servers import ROOT
from tritonclip import Client

PACKAGE = str(Path(tritonclip.__file__).parent)
SAMPLE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["a red circle", "a blue square", "the digit 7"]
MAX_CALLS, MAX_FILES = 88, 16
"""Upper bounds, slightly above what was measured last: 84 calls in 15 files."""


def calls_by_file(function, *arguments):
    """Count the calls of the client's Python functions, by file, that one call makes in this thread.

    Resuming a generator counts as a call.
    """
    counts = Counter()

    def record(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            counts[frame.f_code.co_filename] += 1

    previous = sys.getprofile()
    sys.setprofile(record)
    try:
        function(*arguments)
    finally:
        sys.setprofile(previous)
    return counts


def test_warm_classify_takes_a_short_path(server, record_property):
    with Client(server.grpc_url, timeout_s=60) as client:
        client.classify(SAMPLE, LABELS)
        counts = calls_by_file(client.classify, SAMPLE, LABELS)
    record_property("calls", counts.total())
    record_property("files", len(counts))
    assert counts.total() <= MAX_CALLS, counts
    assert len(counts) <= MAX_FILES, counts
