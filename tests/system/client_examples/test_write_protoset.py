"""The service definition that scripts/write_protoset.py extracts from tritonclient."""

import runpy

from click.testing import CliRunner
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from tritonclient.grpc import service_pb2

from tests.helpers.servers import ROOT, run_script


def write(path):
    command = runpy.run_path(str(ROOT / "scripts" / "write_protoset.py"))["main"]
    return CliRunner().invoke(command, ["--output", str(path)])


def test_file_set_is_complete_and_ordered(tmp_path):
    path = tmp_path / "made" / "triton.protoset"
    done = write(path)
    assert done.exit_code == 0, done.output
    pool = DescriptorPool()  # an empty pool rejects a file whose imports are not loaded yet
    for file in FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.Add(file)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    expected = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [each.name for each in service.methods] == [each.name for each in expected.methods]
    model_infer = service.FindMethodByName("ModelInfer")
    assert "raw_input_contents" in model_infer.input_type.fields_by_name


def test_output_is_deterministic(tmp_path):
    assert write(tmp_path / "a").exit_code == 0
    assert run_script("write_protoset.py", "--output", tmp_path / "b").returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unwritable_output_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = write(tmp_path / "file" / "triton.protoset")
    assert done.exit_code == 1
    assert "cannot write" in done.output
