#!/usr/bin/env bash
# Correctness and speed on this machine in one call of at most 8 minutes, without network: results.json, report.md, log.txt.
# usage: scripts/gpu_benchmark.sh [--device cuda|cpu] [OUTPUT_FOLDER]           default: cuda build/gpu_benchmark
#
# Uses what pack_offline.sh has put into build/offline for this Python (OFFLINE names another folder), or else the
# installed packages. PYTHON names the interpreter that has torch, PARTS the parts to run, in order, and SETTINGS
# parameters of the models (MODEL.NAME=VALUE, as for prepare_weights.py --set). Each part has a time limit of its own, so that
# one that fails or is slow does not cost the others their figures.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
device=cuda
if [ "${1:-}" = --device ]; then
    device=$2
    shift 2
fi
output=${1:-$root/build/gpu_benchmark}
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 1
python=$(command -v "${PYTHON:-python3}") || { echo "error: no ${PYTHON:-python3}" >&2; exit 1; }
case $python in /*) ;; *) python=$PWD/$python ;; esac
offline=$(cd "${OFFLINE:-$root/build/offline}" 2>/dev/null && pwd)
parts=${PARTS:-machine prepare correctness ceilings encoder host nvjpeg ensemble}
budget_s=450
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE # the last as the models do
server_python=$python

# The server's Python is a virtual environment of this one, made of a single .pth file: Triton's stub reads no
# PYTHONPATH, and needs numpy 1 in front of the numpy of this machine.
unpack() {
    local version archive site
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ -z "$offline" ] || [ ! -f "$offline/triton-$version.tar.xz" ]; then
        echo "no $offline/triton-$version.tar.xz: using the installed packages"
        return
    fi
    for archive in triton packages; do # Not tar: it needs xz, which may be missing.
        "$python" -W ignore -m tarfile -e "$offline/$archive-$version.tar.xz" "$work/offline" || return
    done
    "$python" -m venv --without-pip "$work/venv" || return
    site=$work/venv/lib/python$version/site-packages
    printf '%s\n' "$work/offline/numpy" "$work/offline/triton" "$work/offline/packages" >"$site/offline.pth"
    "$python" -c 'import sys; [print(f"import site; site.addsitedir({path!r})")
for path in sys.path if path.endswith(("site-packages", "dist-packages"))]' >>"$site/offline.pth"
    if [ -d "$work/offline/python" ]; then # Used only where this Python has no shared library.
        cp "$work/offline/python/libpython$version.so.1.0" "$work/venv/lib/"
        echo "$work/offline/python/lib-dynload" >>"$site/offline.pth"
    fi
    server_python=$work/venv/bin/python
    export PYTHONPATH=$work/offline/packages${PYTHONPATH:+:$PYTHONPATH} PERF_ANALYZER=$work/offline/perf_analyzer/perf_analyzer
    echo "unpacked Triton for Python $version after $SECONDS s"
}

script=("$root/scripts/gpu_benchmark.py" --output "$output" --work "$work" --device "$device")

run_part() { # NAME LIMIT_S PYTHON
    local name=$1 limit=$2 started=$SECONDS code
    [ "$limit" -le $((budget_s - SECONDS)) ] || limit=$((budget_s - SECONDS))
    if [ "$limit" -lt 5 ]; then
        "$python" "${script[@]}" --failed "no time was left" "$name"
        return
    fi
    timeout --kill-after=25 "$limit" "$3" "${script[@]}" --seconds "$limit" "$name" >>"$output/log.txt" 2>&1
    code=$?
    if [ $code -ne 0 ]; then
        "$python" "${script[@]}" --failed "exit code $code after $((SECONDS - started)) s; see log.txt" "$name"
    fi
    echo "$name: $((SECONDS - started)) s, exit code $code"
}

rm -f "$output"/{results.json,report.md,log.txt}
needed="torch transformers safetensors tokenizers PIL numpy ml_dtypes urllib3 packaging typing_extensions"
missing=$("$python" -c 'import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))' $needed)
[ -z "$missing" ] || echo "missing here: $missing"
unpack
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
"$python" "${script[@]}" summary
echo "report: $output/report.md after $SECONDS s"
