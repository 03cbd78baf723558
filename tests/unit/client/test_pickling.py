"""Clients and errors in pickles: settings travel, connections do not."""

from __future__ import annotations

import copy
import pickle

import pytest

from tests.helpers.answers import answering
from tritonclip import AsyncClient, Client, InvalidInputError, MissingExtraError, TritonClipError

OPTIONS = {"api_key": "secret", "timeout_s": 7, "preprocess": "client", "headers": {"x-team": "a"}}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["grpc://host:1", "http://host:1,other:2"])
def test_pickled_client_has_the_settings_and_its_own_connections(kind, url):
    client = kind(url, **OPTIONS)
    for other in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client)):
        assert type(other) is kind
        assert (other._settings, repr(other)) == (client._settings, repr(client))
        assert other._transport is not client._transport
        assert other._flows is not client._flows


def test_pickled_client_of_used_client_answers_after_the_original_is_closed():
    with answering() as server, Client(server.url) as client:
        assert client.health().live
        other = pickle.loads(pickle.dumps(client))
        client.close()
        assert other.health().live
        other.close()


def test_pickled_closed_client_stays_closed():
    client = Client("http://host:1")
    client.close()
    with pytest.raises(RuntimeError, match="was used after close"):
        pickle.loads(pickle.dumps(client)).health()


def test_attributes_of_a_subclass_travel():
    client = Client("http://host:1")
    client.team = "a"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(client)).team == "a"


@pytest.mark.parametrize("kind", [InvalidInputError, MissingExtraError])
def test_pickled_error_keeps_its_parts(kind):
    error = pickle.loads(pickle.dumps(kind("wrong", model="m", endpoint="http://host:1")))
    assert isinstance(error, TritonClipError)
    assert (error.message, error.model, error.endpoint) == ("wrong", "m", "http://host:1")
