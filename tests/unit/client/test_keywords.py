from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any

import pytest

from tritonclip import AsyncClient, Client, ZeroShotClassifier
from tritonclip._messages.keywords import unexpected_keywords
from tritonclip.search import SearchIndex

CLASSES = [Client, AsyncClient, ZeroShotClassifier, SearchIndex]
METHODS = [
    (kind, name)
    for kind in CLASSES
    for name, member in inspect.getmembers(kind, callable)
    if (not name.startswith("_") or name in ("__init__", "__call__"))
    and name not in ("open", "close", "identity")
    and len(inspect.signature(member).parameters) > 1
]


def message_of(kind: type, name: str, /, *args: Any, **options: Any) -> str:
    """Return the text of the TypeError that a method raises for an unknown keyword argument."""
    owner = object.__new__(kind)  # the arguments are checked before anything of the object is used
    with pytest.raises(TypeError) as caught:
        result = getattr(owner, name)(*args, **options)
        if inspect.isawaitable(result):
            asyncio.run(result)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_public_method_names_itself_and_its_arguments(kind: type, name: str) -> None:
    text = message_of(kind, name, zzzz=1)
    shown = "" if name.startswith("__") else f".{name}"
    assert text.startswith(f"{kind.__name__}{shown}() got an unexpected keyword argument 'zzzz' (it takes ")
    listed = re.findall(r"\w+", text.partition("it takes ")[2])
    own = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    assert {one.name for one in own if one.kind is not one.VAR_KEYWORD} <= set(listed)
    if any(one.name == "options" for one in own) and name != "__init__":
        assert "timeout_s" in listed
    if name.endswith("_many") or name == "sync":
        assert {"batch_size", "patience_s"} <= set(listed)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_no_known_argument_is_rejected(kind: type, name: str) -> None:
    listed = re.findall(r"\w+", message_of(kind, name, zzzz=1).partition("it takes ")[2])
    for known in listed:
        assert f"'{known}'" not in message_of(kind, name, **{known: 1, "zzzz": 1})


@pytest.mark.parametrize(
    ("kind", "name", "given", "meant"),
    [
        (Client, "classify", "candidate_labels", "labels"),
        (Client, "classify", "timeout", "timeout_s"),
        (Client, "classify", "request_timeout", "timeout_s"),
        (Client, "classify", "client_timeout", "timeout_s"),
        (Client, "classify", "image", "images"),
        (Client, "classify", "template", "hypothesis_template"),
        (Client, "classify", "hypotesis_template", "hypothesis_template"),
        (Client, "classify", "topk", "top_k"),
        (Client, "classify", "extra_headers", "headers"),
        (Client, "classify_many", "candidate_labels", "labels"),
        (Client, "classify_many", "max_workers", "concurrency"),
        (Client, "embed_images", "input", "images"),
        (Client, "embed_texts", "input", "texts"),
        (Client, "embed_texts", "text", "texts"),
        (Client, "embed_texts", "sentences", "texts"),
        (Client, "embed_texts_many", "chunk_size", "batch_size"),
        (Client, "health", "timeout", "timeout_s"),
        (Client, "__init__", "base_url", "url"),
        (Client, "__init__", "max_retries", "attempts"),
        (AsyncClient, "classify", "candidate_labels", "labels"),
        (AsyncClient, "classify_many", "timeout", "timeout_s"),
        (AsyncClient, "__init__", "token", "api_key"),
        (ZeroShotClassifier, "__call__", "labels", "candidate_labels"),
        (ZeroShotClassifier, "__call__", "topk", "top_k"),
        (ZeroShotClassifier, "__init__", "candidate_labels", "labels"),
        (ZeroShotClassifier, "__init__", "hypothesis_template", "templates"),
        (ZeroShotClassifier, "classify_many", "timeout", "timeout_s"),
        (SearchIndex, "search", "k", "top_k"),
        (SearchIndex, "search", "query", "vector"),
        (SearchIndex, "sync", "folder", "directories"),
        (SearchIndex, "sync", "progress", "on_progress"),
        (SearchIndex, "duplicates", "min_score", "threshold"),
    ],
)
def test_word_of_another_library_suggests_the_argument(kind: type, name: str, given: str, meant: str) -> None:
    text = message_of(kind, name, **{given: 1})
    assert f"'{given}' (did you mean {meant}=?)" in text


def test_word_for_two_arguments_suggests_both() -> None:
    assert "did you mean images= or texts=?" in message_of(Client, "similarity", input=1)


def test_class_methods_suggest_too() -> None:
    with pytest.raises(TypeError, match=r"^SearchIndex\.open\(\) got .* 'path' \(did you mean address=\?\)$"):
        SearchIndex.open(path="x")  # type: ignore[call-arg]


def test_several_unknown_arguments_each_get_a_cure() -> None:
    text = message_of(Client, "classify", "x.jpg", candidate_labels=["cat"], timeout=3)
    assert text == (
        "Client.classify() got unexpected keyword arguments 'candidate_labels' (did you mean labels=?), "
        "'timeout' (did you mean timeout_s=?)"
    )


def test_model_is_left_out() -> None:
    assert "the server decides it" in message_of(Client, "embed_texts", input="a", model="clip")
    assert "did you mean" in str(unexpected_keywords("f", ["Timeout"], ["timeout_s"]))


def test_subclass_is_named_as_its_own() -> None:
    class Mine(Client):
        pass

    assert message_of(Mine, "classify", zzzz=1).startswith("Mine.classify() got")
