#!/bin/sh
# Write the hashes of every package of the images, at the versions of constraints.txt. Needs uv: pip install uv.
# usage: docker/requirements/update.sh
set -eu
cd "$(dirname "$0")/../.."

# torch is left out with its CUDA libraries: the index at build time decides which build it is, and each has other hashes.
compile() {
    output=docker/requirements/$1.txt
    shift
    {
        echo "# Written by docker/requirements/update.sh, for Python 3.11 and 3.12 on x86-64."
        uv pip compile --quiet --no-header --no-annotate --generate-hashes --constraint constraints.txt \
            --python-version 3.11 --python-platform x86_64-manylinux_2_36 "$@" \
            | awk '/^[a-z]/ { keep = !/^(torch|triton)==/ && (!/^(cuda|nvidia)-/ || /^nvidia-pytriton==/) } keep'
    } > "$output"
}

tools=$(mktemp)
trap 'rm -f "$tools"' EXIT
printf '%s\n' pip setuptools > "$tools" # setuptools builds the client, hatchling the server
compile gateway-tracing client/pyproject.toml "$tools" --extra gateway --extra tracing
compile gateway-tracing-search client/pyproject.toml "$tools" --extra gateway --extra tracing --extra search
printf '%s\n' gevent locust >> "$tools"
compile loadtest client/pyproject.toml "$tools"
printf '%s\n' pip setuptools hatchling > "$tools"
compile server pyproject.toml client/pyproject.toml "$tools" --extra heif
