#!/usr/bin/env bash
# Pack everything that gpu_benchmark.sh needs on a machine without network, for one Python version.
# usage: pack_offline.sh [PYTHON_VERSION [FOLDER]]          defaults: 3.12 build/offline
#
# triton-VERSION.tar.xz    the embedded Triton with the stub for that Python, perf_analyzer, and the shared libpython with its
#                          extension modules, because the Python of a distribution may have neither
# packages-VERSION.tar.xz  Python packages at the versions of constraints.txt, with numpy in a separate folder, because only
#                          the server needs that version. Wheels are unpacked first; xz then needs two thirds of their size.
# Run it in a checkout after 'make install', or set PYTHON to another interpreter that has the server package.
set -euo pipefail
cd "$(dirname "$0")/../../.."
version=${1:-3.12} output=${2:-build/offline} python=${PYTHON:-.venv/bin/python}
packages=(click rich markdown-it-py mdurl pygments protobuf grpcio python-rapidjson tritonclient)
mkdir -p "$output"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

download() { # FOLDER PACKAGE...
    local folder=$1 platforms=()
    shift
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    "$python" -m pip download --quiet --no-deps --only-binary :all: --python-version "$version" --implementation cp \
        "${platforms[@]}" --constraint constraints.txt --dest "$work/wheels" "$@"
    mkdir -p "$folder"
    for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder"; done
    rm -r "$work/wheels"
}

copy_triton() { # FOLDER
    local site target=$1/triton
    site=$("$python" -c 'import importlib.util as u; print(u.find_spec("pytriton").submodule_search_locations[0])')
    local stub=pytriton/tritonserver/python_backend_stubs/$version
    [ -d "$site/../$stub" ] || { echo "error: nvidia-pytriton has no stub for Python $version" >&2; exit 1; }
    mkdir -p "$target/pytriton/tritonserver/python_backend_stubs"
    cp -r "$site/tritonserver/bin" "$site/tritonserver/backends" "$target/pytriton/tritonserver/"
    cp -r "$site/../$stub" "$target/$stub"
    cp -r "$site/../nvidia_pytriton.libs" "$target/"
    rm -f "$target"/nvidia_pytriton.libs/libpython*
    chmod +x "$target/pytriton/tritonserver/bin/tritonserver" "$target/$stub/triton_python_backend_stub"
}

copy_perf_analyzer() { # FOLDER, which also contains triton/ with the libraries
    local target=$1/perf_analyzer library
    "$python" -c 'import pathlib, sys
from tritonclip_server.benchmarks import perf_analyzer
perf_analyzer.install(pathlib.Path(sys.argv[1]))' "$target"
    for library in "$target"/lib*; do
        ln -sf "../triton/nvidia_pytriton.libs/$(basename "$(readlink "$library")")" "$library"
    done
}

copy_libpython() { # FOLDER
    local target=$1/python candidate found
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/"python$version"; do
        found=$("$candidate" -c 'import sysconfig as s; print(s.get_config_var("LIBDIR"), s.get_config_var("DESTSHARED"))' \
            2>/dev/null) || continue
        [ -f "${found% *}/libpython$version.so.1.0" ] && [ -f "${found#* }/$(basename "${found#* }"/math.*)" ] || continue
        mkdir -p "$target/lib-dynload"
        cp "${found% *}/libpython$version.so.1.0" "$target/"
        cp "${found#* }"/*.so "$target/lib-dynload/"
        rm -f "$target"/lib-dynload/{_test,_tkinter,_xx,xx,_ctypes_test,readline,_curses,ossaudiodev,nis}*
        return
    done
    echo "no Python $version with a shared library was found: the GPU machine must have one" >&2
}

copy_triton "$work/triton"
copy_perf_analyzer "$work/triton"
copy_libpython "$work/triton"
download "$work/packages/packages" "${packages[@]}"
download "$work/packages/numpy" numpy
rm -rf "$work"/packages/numpy/numpy/{*/tests,*/*/tests,f2py,distutils}
if command -v strip >/dev/null; then
    strip --strip-unneeded "$work"/triton/perf_analyzer/perf_analyzer "$work"/triton/python/*.so* \
        "$work"/triton/python/lib-dynload/*.so 2>/dev/null || true
fi
for name in triton packages; do
    XZ_OPT="-6 -T0" tar -C "$work/$name" -cJf "$output/$name-$version.tar.xz" .
done
du -h --apparent-size -c "$output"/*-"$version".tar.xz
