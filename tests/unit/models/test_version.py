"""The check of a version before a model loads it: every file and parameter that can change an answer."""

import hashlib
import json

import pytest

from clip_common.parameters import Parameters
from clip_common.version import VersionError, check_version

FILES = {"vision.safetensors": b"weights" * 1000, "vision.json": b"{}", "clip_vision.py": b"code"}
PRECISION = Parameters({"parameters": {"precision": {"string_value": "auto"}}})


@pytest.fixture
def directory(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in FILES.items()
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files, "parameters": {"precision": "auto"}}))
    return tmp_path


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_unchanged_version_is_accepted(directory):
    check_version(directory, PRECISION)


@pytest.mark.parametrize("name", ["vision.safetensors", "vision.json"])
def test_one_flipped_bit_is_reported_with_file_both_checksums_and_the_fix(directory, name):
    flip_bit(directory / name)
    found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    expected = hashlib.sha256(FILES[name]).hexdigest()
    with pytest.raises(VersionError) as caught:
        check_version(directory, PRECISION)
    text = str(caught.value)
    assert str(directory / name) in text and "tritonclip-server prepare" in text
    assert f"expected sha256 {expected[:16]}, found {found[:16]}" in text
    assert "\n" not in text


def test_truncated_and_missing_files_are_reported(directory):
    (directory / "vision.json").write_bytes(b"")
    with pytest.raises(VersionError, match=r"vision.json was changed or damaged"):
        check_version(directory, PRECISION)
    (directory / "vision.json").unlink()
    with pytest.raises(VersionError, match=r"vision.json cannot be read \(No such file"):
        check_version(directory, PRECISION)


def test_instrumented_code_is_accepted(directory):
    flip_bit(directory / "clip_vision.py")
    check_version(directory, PRECISION)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}}'])
def test_damaged_manifest_is_reported(directory, content):
    (directory / "manifest.json").write_text(content)
    with pytest.raises(VersionError, match=r"manifest.json is missing or damaged; prepare the repository"):
        check_version(directory, PRECISION)


def test_parameter_that_was_edited_after_preparation_is_reported(directory):
    edited = Parameters({"parameters": {"precision": {"string_value": "bfloat16"}}})
    with pytest.raises(VersionError, match="config.pbtxt sets precision to 'bfloat16', but .* with 'auto'"):
        check_version(directory, edited)
