#!/usr/bin/env bash
# Moved; kept for one release.
echo "scripts/pack_offline.sh moved: use scripts/tritonclip_server/gpu/pack_offline.sh" >&2
exec "$(dirname "$0")/tritonclip_server/gpu/pack_offline.sh" "$@"
