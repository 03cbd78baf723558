#!/usr/bin/env bash
# Installs packages into a virtual environment: with uv if it is there, since it takes a third of the time,
# otherwise with pip. uv then uses the indexes and the certificates that pip is configured with.
# usage: scripts/install.sh VENV ARGUMENTS_OF_PIP_INSTALL...
set -euo pipefail

python=$1/bin/python
shift

# The value that pip's configuration files or environment variables give an option.
pip_option() {
    "$python" -m pip config list | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

with_uv() {
    local index_url extra_index_url find_links cert
    index_url=$(pip_option index-url)
    extra_index_url=$(pip_option extra-index-url)
    find_links=$(pip_option find-links)
    cert=$(pip_option cert)
    export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra_index_url}
    export UV_FIND_LINKS=${UV_FIND_LINKS:-${find_links// /,}}
    [[ -z $index_url ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index_url}
    [[ -z $cert ]] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}
    uv pip install --quiet --python "$python" --index-strategy unsafe-best-match "$@"
}

if command -v uv >/dev/null; then
    with_uv "$@" && exit
    echo "uv failed, trying pip" >&2
fi
"$python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1' # for --group
exec "$python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"
