"""Decoders of token arrays: errors at the start of the gateway."""

import sys
from unittest.mock import patch

import pytest
import tiktoken

from tritonclip import InvalidInputError, MissingExtraError
from tritonclip.gateway import GatewaySettings, create_app
from tritonclip.gateway.payloads.token_arrays import load_decoder


def test_missing_tiktoken_gives_the_commands_of_its_extra():
    with patch.dict(sys.modules, {"tiktoken": None}), pytest.raises(MissingExtraError) as caught:
        load_decoder("cl100k_base")
    assert str(caught.value).startswith("token arrays need tiktoken; install it with: ")
    assert 'pip install "./client[tokens]"' in str(caught.value)


def test_unknown_encoding_is_rejected_with_the_known_ones():
    with pytest.raises(InvalidInputError, match="token_arrays: 'clip' is unknown; give one of .*cl100k_base"):
        create_app(GatewaySettings(token_arrays="clip"), "localhost:1")


def test_encoding_whose_file_is_out_of_reach_is_an_error_of_the_start():
    """Errors of a download are OSErrors, and a wrong hash is a ValueError."""
    for error in (OSError("no network"), ValueError("hash mismatch")):
        with patch.object(tiktoken, "get_encoding", side_effect=error):
            with pytest.raises(
                InvalidInputError, match=rf"of cl100k_base cannot be loaded \({error}\); allow"
            ):
                load_decoder("cl100k_base")
