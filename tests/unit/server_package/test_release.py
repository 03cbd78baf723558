"""Flags of each release of Triton, and their numbers."""

import pytest

from tritonclip_server.serving.release import (
    EMBEDDED,
    FIRST_WITH,
    PINNED,
    Release,
    knows,
    server_flags,
)

OPTIONS = {"admin_key": "secret", "gpu": False, "exit_timeout_s": 3.0}
CLOSED = "shared-memory,model-repository,trace,logging:admin-key=secret"


def test_pinned_release_also_gets_newer_flags():
    embedded, pinned = (server_flags(one, explicit=False, **OPTIONS) for one in (EMBEDDED, PINNED))
    assert set(pinned) - set(embedded) == set(FIRST_WITH)
    assert pinned["http-max-input-size"] == "76546048"
    assert pinned | embedded == pinned
    assert pinned["http-restricted-api"] == pinned["grpc-restricted-protocol"] == CLOSED


def test_models_load_at_start_with_and_without_model_control():
    assert server_flags(PINNED, explicit=False, **OPTIONS)["model-control-mode"] == "none"
    explicit = server_flags(PINNED, explicit=True, **OPTIONS)
    assert (explicit["model-control-mode"], explicit["load-model"]) == ("explicit", "*")


def test_flag_is_known_from_its_first_release():
    assert not knows(Release(2, 58, 1), "http-max-input-size")
    assert knows(Release(2, 59), "http-max-input-size")
    assert not knows(Release(2, 56), "grpc-infer-thread-count")
    assert knows(Release(2, 57), "grpc-infer-thread-count")


@pytest.mark.parametrize(("text", "release"), [("2.71.0\n", PINNED), ("2.59.1dev", Release(2, 59, 1))])
def test_release_is_parsed(text, release):
    assert Release.parse(text) == release


@pytest.mark.parametrize("text", ["", "26.07", "two.point.0"])
def test_text_that_is_not_a_release_is_rejected(text):
    with pytest.raises(ValueError, match=r"unpack|literal"):
        Release.parse(text)
