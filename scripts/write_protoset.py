"""Write Triton's gRPC service definition as a FileDescriptorSet: `write_protoset.py --output FILE`.

The definition comes from the installed `tritonclient`, so this repository contains no copy of it. protoc
(`--descriptor_set_in`), grpcurl (`-protoset`) and @grpc/proto-loader can read the file.
"""

from __future__ import annotations

from pathlib import Path

import click
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import service_pb2


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/triton.protoset"),
    show_default=True,
    help="File to write; its folder is created.",
)
def main(output: Path) -> None:
    """Write the definition of inference.GRPCInferenceService and all files that it imports."""
    files = [_to_proto(each) for each in with_imports(service_pb2.DESCRIPTOR)]
    content = FileDescriptorSet(file=files).SerializeToString(deterministic=True)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"--output {output}: cannot write: {error}") from error
    click.echo(f"{output}: {', '.join(each.name for each in files)}")


def with_imports(file: FileDescriptor) -> list[FileDescriptor]:
    """Return the file and all its imports in the order that protoc requires: each once, after its imports."""
    found: dict[str, FileDescriptor] = {}
    for imported in file.dependencies:
        found.update((each.name, each) for each in with_imports(imported))
    found[file.name] = file
    return list(found.values())


def _to_proto(file: FileDescriptor) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


if __name__ == "__main__":
    main()
