#!/usr/bin/env bash
# Print the Debian packages that tests need and this machine lacks: compilers for client/examples, the proxy of
# docker/nginx, a browser for the gateway's page, Java for Spark, and promtool for docker/monitoring. With --slow also
# those of tests marked slow.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
lists=()
for list in client/examples/*/apt-packages.txt; do
    [[ $list == */java/* && ${1-} != --slow ]] || lists+=("$list")
done
for package in $(sort -u "${lists[@]}"); do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || state=unknown
    [[ $state == installed ]] || missing+=("$package")
done
command -v npm >/dev/null || missing+=(nodejs npm)
command -v nginx >/dev/null || missing+=(nginx-light)
command -v chromium >/dev/null || missing+=(chromium)
command -v curl >/dev/null || missing+=(curl)
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
command -v promtool >/dev/null || missing+=(prometheus)
echo "${missing[@]}"
