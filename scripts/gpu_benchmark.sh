#!/usr/bin/env bash
# Moved; kept for one release.
echo "scripts/gpu_benchmark.sh moved: use scripts/tritonclip_server/gpu/gpu_benchmark.sh" >&2
exec "$(dirname "$0")/tritonclip_server/gpu/gpu_benchmark.sh" "$@"
