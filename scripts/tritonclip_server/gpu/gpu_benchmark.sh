#!/usr/bin/env bash
# Measure correctness and speed on this machine in at most 8 minutes, without network. Writes results.json, report.md, log.txt.
# usage: gpu_benchmark.sh [--device cuda|cpu] [OUTPUT_FOLDER]           default: cuda build/gpu_benchmark
#
# Nothing is installed. The script creates virtual environments of this machine's Python, and adds this checkout to them and
# the archives that pack_offline.sh has written for this Python version, if there are any. Environment variables:
#   PYTHON    interpreter that has torch and transformers (default: python3)
#   OFFLINE   folder of the archives (default: build/offline)
#   PARTS     parts to run, in order
#   SETTINGS  parameters of the models, as MODEL.NAME=VALUE of `tritonclip-server prepare --set`
# Each part has a time limit, so a part that fails or is slow does not affect the others.
set -uo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
device=cuda
if [ "${1:-}" = --device ]; then
    device=$2
    shift 2
fi
output=${1:-$root/build/gpu_benchmark}
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 1
base_python=$(command -v "${PYTHON:-python3}") || { echo "error: ${PYTHON:-python3} was not found" >&2; exit 1; }
case $base_python in /*) ;; *) base_python=$PWD/$base_python ;; esac
version=$("$base_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
offline=$(cd "${OFFLINE:-$root/build/offline}" 2>/dev/null && pwd)
parts=${PARTS:-machine prepare correctness ceilings encoder host ensemble}
budget_s=450
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE # the models set the last one too

make_venv() { # NAME FOLDER...: imports come from the folders, from this machine's packages, and from this checkout
    local venv=$work/$1 site
    shift
    site=$venv/lib/python$version/site-packages
    "$base_python" -m venv --without-pip "$venv" || return
    {
        printf '%s\n' "$@"
        "$base_python" -c 'import sys; [print(f"import site; site.addsitedir({path!r})")
for path in sys.path if path.endswith(("site-packages", "dist-packages"))]'
        echo "$root/scripts"
    } >"$site/gpu_benchmark.pth"
}

# The part that starts the server needs numpy 1, so it gets an environment in which that comes before this machine's numpy.
# Triton's stub ignores PYTHONPATH, therefore everything goes through .pth files.
make_environments() {
    local archive
    if [ -z "$offline" ] || [ ! -f "$offline/triton-$version.tar.xz" ]; then
        echo "no triton-$version.tar.xz in ${OFFLINE:-build/offline}: using the installed packages"
        make_venv venv && server_python=$python
        return
    fi
    for archive in triton packages; do # Python's tarfile, because tar needs xz, which may be missing
        "$base_python" -W ignore -m tarfile -e "$offline/$archive-$version.tar.xz" "$work/offline" || return
    done
    make_venv venv "$work/offline/packages" || return
    make_venv server "$work/offline/numpy" "$work/offline/triton" "$work/offline/packages" || return
    server_python=$work/server/bin/python
    if [ -d "$work/offline/python" ]; then # used only if this Python has no shared library
        cp "$work/offline/python/libpython$version.so.1.0" "$work/server/lib/"
        echo "$work/offline/python/lib-dynload" >>"$work/server/lib/python$version/site-packages/gpu_benchmark.pth"
    fi
    export PERF_ANALYZER=$work/offline/perf_analyzer/perf_analyzer
    echo "unpacked Triton for Python $version after $SECONDS s"
}

python=$work/venv/bin/python
benchmark=(-m tritonclip_server.gpu.benchmark --output "$output" --work "$work" --device "$device")

run_part() { # NAME LIMIT_S PYTHON
    local name=$1 limit=$2 started=$SECONDS code
    [ "$limit" -le $((budget_s - SECONDS)) ] || limit=$((budget_s - SECONDS))
    if [ "$limit" -lt 5 ]; then
        "$python" "${benchmark[@]}" --failed "no time was left" "$name"
        return
    fi
    timeout --kill-after=25 "$limit" "$3" "${benchmark[@]}" --seconds "$limit" "$name" >>"$output/log.txt" 2>&1
    code=$?
    if [ $code -ne 0 ]; then
        "$python" "${benchmark[@]}" --failed "exit code $code after $((SECONDS - started)) s; see log.txt" "$name"
    fi
    echo "$name: $((SECONDS - started)) s, exit code $code"
}

rm -f "$output"/{results.json,report.md,log.txt}
make_environments || { echo "error: cannot create the virtual environments" >&2; exit 1; }
needed="torch transformers safetensors tokenizers PIL numpy ml_dtypes urllib3 packaging typing_extensions"
missing=$("$python" -c 'import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))' $needed)
[ -z "$missing" ] || echo "missing packages: $missing"
for part in $parts; do
    case $part in
        prepare) run_part prepare 120 "$python" ;;
        correctness) run_part correctness 90 "$python" ;;
        encoder) run_part encoder 80 "$python" ;;
        host) run_part host 50 "$python" ;;
        ensemble) run_part ensemble 330 "$server_python" ;;
        *) run_part "$part" 45 "$python" ;;
    esac
done
"$python" "${benchmark[@]}" summary
echo "report: $output/report.md after $SECONDS s"
