"""Endpoints behind the admin key, and files that are rejected."""

import contextlib
import io
import re
import shutil
import stat
import warnings
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http
from click.testing import CliRunner
from PIL import Image
from tritonclient.utils import InferenceServerException

from clip_pillow import accepted_formats
from tests.helpers.calls import parameters
from tests.helpers.pictures import noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client, InvalidInputError
from tritonclip_server.repository.prepare import main as prepare

ADMIN_HEADER = {"grpc": "triton-grpc-protocol-admin-key", "http": "admin-key"}
MODEL = "clip_text_embedding"
CLOSED = {
    "repository index": lambda client, **key: client.get_model_repository_index(**key),
    "load": lambda client, **key: client.load_model(MODEL, **key),
    "unload": lambda client, **key: client.unload_model(MODEL, **key),
    "shared memory": lambda client, **key: client.get_system_shared_memory_status(**key),
    "map memory": lambda client, **key: client.register_system_shared_memory("a", "/none", 64, **key),
    "unmap memory": lambda client, **key: client.unregister_system_shared_memory("a", **key),
    "GPU memory": lambda client, **key: client.get_cuda_shared_memory_status(**key),
    "trace settings": lambda client, **key: client.get_trace_settings(**key),
    "trace a model": lambda client, **key: client.update_trace_settings(
        MODEL, {"trace_level": ["OFF"]}, **key
    ),
    "log settings": lambda client, **key: client.get_log_settings(**key),
    "log verbosely": lambda client, **key: client.update_log_settings({"log_verbose_level": 0}, **key),
}
# Triton rejects these with the key too: there is no such region, and model control is off.
REJECTED_WITH_KEY = re.compile(
    "explicit model load / unload is not allowed|Unable to open shared memory region"
)
OPEN = {
    "live": lambda client: client.is_server_live(),
    "ready": lambda client: client.is_server_ready(),
    "model ready": lambda client: client.is_model_ready(MODEL),
    "server metadata": lambda client: client.get_server_metadata(),
    "model metadata": lambda client: client.get_model_metadata(MODEL),
    "model configuration": lambda client: client.get_model_config(MODEL),
    "statistics": lambda client: client.get_inference_statistics(),
}


@pytest.fixture
def plain(url, protocol):
    """A tritonclient client of the shared server."""
    module = {"grpc": tritonclient.grpc, "http": tritonclient.http}[protocol]
    with module.InferenceServerClient(url) as client:
        yield client


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("key", [None, "wrong"])
def test_closed_endpoint_rejects_a_missing_or_wrong_key(server, plain, protocol, name, key):
    headers = {ADMIN_HEADER[protocol]: key} if key else {}
    with pytest.raises(InferenceServerException, match="is restricted") as caught:
        CLOSED[name](plain, headers=headers)
    assert caught.value.status() == {"grpc": "StatusCode.UNAVAILABLE", "http": "403"}[protocol]
    assert server.admin_key not in str(caught.value)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_endpoint_accepts_the_key(server, plain, protocol, name):
    try:
        CLOSED[name](plain, headers={ADMIN_HEADER[protocol]: server.admin_key})
    except InferenceServerException as error:
        assert REJECTED_WITH_KEY.search(str(error)), str(error)


@pytest.mark.parametrize("name", OPEN)
def test_open_endpoint_needs_no_key(plain, name):
    assert OPEN[name](plain)


def test_key_is_not_in_the_log_or_the_environment(server):
    assert not [line for line in server.log if server.admin_key in line]
    environment = Path(f"/proc/{server.pid}/environ")
    assert server.admin_key.encode() not in environment.read_bytes()
    assert not stat.S_IMODE(environment.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH)


def test_command_line_shows_the_key_as_documented(server):
    shown = Path(f"/proc/{server.pid}/cmdline")
    assert server.admin_key.encode() in shown.read_bytes()
    assert shown.stat().st_mode & stat.S_IROTH


def written(name):
    """Return a file of a format, or None if this Pillow cannot write it."""
    for mode in ("RGB", "L", "1", "P"):
        file = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # formats that Pillow will drop
            noise(64, 48).convert(mode).save(file, name)
            return file.getvalue()
    return None


@pytest.fixture(scope="module")
def files():
    """A file of each format that this Pillow can write, by format."""
    Image.init()
    files = {name: written(name) for name in sorted(Image.SAVE)}
    found = {name: data for name, data in files.items() if data}
    assert {"EPS", "ICO", "PCX", "PDF", "SGI", "TGA", "ICNS", "DDS", "JPEG", "PNG"} <= set(found)
    return found


ALIASES = {"MPO": "JPEG"}  # an MPO file with one picture is a JPEG file


def test_accepted_formats_run_no_program_and_have_a_fixed_header(server):
    accepted = set(accepted_formats(parameters(server, "image_preprocess")["image_formats"]))
    assert not accepted & {"EPS", "PDF", "ICO", "ICNS", "PSD", "TGA", "WMF", "FITS", "HDF5", "SPIDER", "PCD"}


def test_only_listed_formats_are_decoded(server, files):
    accepted = accepted_formats(parameters(server, "image_preprocess")["image_formats"])
    decoded = set()
    with Client(server.grpc_url, timeout_s=60) as client:
        for name, data in files.items():
            try:
                assert client.embed_images(data).shape == (512,)
                decoded.add(name)
            except InvalidInputError as error:
                assert "not an image in a format accepted here" in str(error), name
                assert f"({', '.join(accepted)})" in str(error), name
    assert decoded == {name for name in files if ALIASES.get(name, name) in accepted}


@pytest.mark.parametrize(
    "head",
    [
        b"8BPS\x00\x01" + bytes(60),
        b"SIMPLE  =                    T" + bytes(60),
        b"\x89HDF\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["PSD", "FITS", "HDF5", "PostScript"],
)
def test_formats_that_pillow_only_reads_are_rejected(server, head):
    with Client(server.grpc_url) as client, pytest.raises(InvalidInputError, match="a format accepted here"):
        client.embed_images(head)


class Payload:
    """An object that writes a file when pickle loads it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_pickled_weights_that_would_run_code_are_rejected(tmp_path):
    import torch

    checkpoint = shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").unlink()
    touched = tmp_path / "touched"
    torch.save({"logit_scale": Payload(touched)}, checkpoint / "pytorch_model.bin")
    done = CliRunner().invoke(prepare, [str(checkpoint), "--output", str(tmp_path / "models")])
    assert done.exit_code == 1
    assert "pytorch_model.bin holds other objects than tensors, or is damaged" in done.stderr
    assert not (tmp_path / "models" / "vision_encoder" / "1").exists()
    assert not touched.exists()
    torch.load(checkpoint / "pytorch_model.bin", weights_only=False)
    assert touched.exists()  # the code in the file does run when it is loaded
