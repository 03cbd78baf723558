"""The service definition that scripts/write_protoset.py extracts from tritonclient."""

import subprocess
import sys

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from tritonclient.grpc import service_pb2

from tests.helpers.servers import ROOT


def write(*arguments):
    command = [sys.executable, "scripts/write_protoset.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_file_set_is_complete_and_ordered(tmp_path):
    path = tmp_path / "made" / "triton.protoset"
    done = write("--output", str(path))
    assert done.returncode == 0, done.stderr
    pool = DescriptorPool()  # an empty pool rejects a file whose imports are not loaded yet
    for file in FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.Add(file)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    expected = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [each.name for each in service.methods] == [each.name for each in expected.methods]
    model_infer = service.FindMethodByName("ModelInfer")
    assert "raw_input_contents" in model_infer.input_type.fields_by_name


def test_output_is_deterministic(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        assert write("--output", str(path)).returncode == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_unwritable_output_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = write("--output", str(tmp_path / "file" / "triton.protoset"))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
