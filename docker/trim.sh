#!/bin/sh
# Remove what a server never reads from a virtual environment: build files, tests, stubs of other Python versions.
# usage: trim.sh VENV
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
rm -rf "$1"/share "$site"/pip "$site"/pip-*.dist-info "$site"/setuptools "$site"/setuptools-*.dist-info "$1"/bin/pip*
rm -rf "$site"/torch/include "$site"/torch/share "$site"/torch/test "$site"/torch/bin/test_*
if [ -d "$site/hatchling" ]; then # with what only it needs
    for tool in hatchling pathspec pluggy trove_classifiers; do
        rm -rf "$site/$tool" "$site/$tool"-*.dist-info "$1/bin/$tool"
    done
fi
find "$site" -type d -name tests -prune -exec rm -rf {} +
python=$("$1"/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for stub in "$site"/pytriton/tritonserver/python_backend_stubs/*; do
    [ ! -d "$stub" ] || [ "$(basename "$stub")" = "$python" ] || rm -rf "$stub"
done
