"""Errors for unknown keyword arguments that suggest the right name, also for the words of other libraries."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

C = TypeVar("C", bound=type)

_SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "images image img imgs picture pictures photo photos path paths file files input inputs data",
        "texts text sentence sentences query queries prompt prompts document documents input inputs data",
        "labels candidate_labels label classes class_names categories category candidates choices prompts",
        "hypothesis_template template templates prompt_template hypothesis prompt format",
        "top_k topk k n limit top_n n_results num_results max_results",
        "threshold min_score score_threshold min_similarity cutoff",
        "vector query embedding query_vector query_embedding embeds",
        "timeout_s timeout request_timeout client_timeout network_timeout connection_timeout deadline"
        " deadline_s timeout_ms timeout_seconds max_time",
        "request_id id correlation_id x_request_id",
        "headers extra_headers default_headers metadata",
        "batch_size chunk_size batch max_batch_size images_per_request",
        "concurrency max_workers num_workers workers max_concurrency parallel parallelism n_jobs threads",
        "on_progress progress progress_callback callback show_progress progress_bar tqdm",
        "on_error errors raise_on_error ignore_errors return_exceptions",
        "patience_s patience max_wait wait retry_timeout",
        "url base_url api_base endpoint host server server_url address hostname uri target",
        "address path uri directory url index name",
        "api_key apikey token key auth bearer bearer_token access_token",
        "attempts max_retries retries num_retries max_attempts",
        "ca_file ca_certs ca_cert cafile ca_bundle root_certificates ssl_ca_cert verify",
        "cert_file cert certificate certfile client_cert certificate_chain",
        "key_file private_key keyfile client_key",
        "keepalive_s keepalive keep_alive keepalive_time_ms",
        "preprocess preprocessing client_side",
        "directories directory folder folders path paths images dirs",
    )
)
"""Words for the same argument. An unknown word suggests those of its groups that the method takes."""

_CHOSEN_BY_THE_SERVER = "leave it out, since the server decides it; see models()"
_LEAVE_OUT = dict.fromkeys(
    (
        "model model_name model_id checkpoint revision config model_kwargs trust_remote_code framework"
        " device dtype torch_dtype tokenizer tokenizer_kwargs image_processor feature_extractor processor"
        " use_fast"
    ).split(),
    _CHOSEN_BY_THE_SERVER,
)

_UNNAMED = ("__init__", "__call__")
"""Methods that are called by the name of the class."""


def unexpected_keywords(function: str, given: Collection[str], accepted: Collection[str]) -> TypeError:
    """Return the error for keyword arguments that a function does not take, with a cure for each.

    Args:
        function: Name of the public function, such as "Client.classify".
        given: The keyword arguments of the call.
        accepted: The names that the function takes.
    """
    unknown = [name for name in given if name not in accepted]
    cures = ", ".join(f"{name!r} ({_cure(name, accepted)})" for name in unknown)
    found = "an unexpected keyword argument" if len(unknown) == 1 else "unexpected keyword arguments"
    return TypeError(f"{function}() got {found} {cures}")


def _cure(name: str, accepted: Collection[str]) -> str:
    word = name.lower().strip("_")
    synonyms = [one for one in accepted if any({word, one} <= group for group in _SYNONYMS)]
    near = synonyms or difflib.get_close_matches(word, accepted, n=1)
    if near:
        return f"did you mean {' or '.join(f'{one}=' for one in near)}?"
    if word in _LEAVE_OUT and "models" not in accepted:
        return _LEAVE_OUT[word]
    return f"it takes {', '.join(accepted)}"


def suggests_keywords(*option_types: Any) -> Callable[[C], C]:
    """Make the public methods of a class reject unknown keyword arguments with a suggestion.

    The TypeError names the public method; without this it would name the function that unpacks the options.

    Args:
        option_types: The TypedDicts that `Unpack` names in the methods' signatures.
    """
    options = {kind.__name__: tuple(kind.__annotations__) for kind in option_types}

    def decorate(cls: C) -> C:
        for name, member in list(vars(cls).items()):
            if name.startswith("_") and name not in _UNNAMED:
                continue
            if isinstance(member, classmethod):
                setattr(cls, name, classmethod(_checked(member.__func__, options)))
            elif inspect.isfunction(member):
                setattr(cls, name, _checked(member, options))
        return cls

    return decorate


def _checked(function: Callable[..., Any], options: dict[str, tuple[str, ...]]) -> Callable[..., Any]:
    """Return the method with a check of its keyword arguments, or the method itself if it takes none."""
    accepted = _keywords(function, options)
    if not accepted:
        return function
    known = frozenset(accepted)

    def reject(owner: Any, given: Collection[str]) -> TypeError:
        kind = owner if isinstance(owner, type) else type(owner)
        method = "" if function.__name__ in _UNNAMED else f".{function.__name__}"
        return unexpected_keywords(f"{kind.__name__}{method}", given, accepted)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_later(self: Any, *args: Any, **given: Any) -> Any:
            if not known.issuperset(given):
                raise reject(self, given)
            return await function(self, *args, **given)

        return call_later

    @functools.wraps(function)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        if not known.issuperset(given):
            raise reject(self, given)
        return function(self, *args, **given)

    return call


def _keywords(function: Callable[..., Any], options: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names that a method takes as keyword arguments, in the order of its signature."""
    names: list[str] = []
    for one in list(inspect.signature(function).parameters.values())[1:]:
        if one.kind is one.VAR_KEYWORD:
            names += options[one.annotation.removeprefix("Unpack[").removesuffix("]").rpartition(".")[2]]
        elif one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            names.append(one.name)
    return tuple(names)
