#!/usr/bin/env bash
# Installs what tests use beside Python: Chromium and its driver, which show the served page, and a Redis server, which keeps
# events. Never fails, for tests of what is missing skip and say so.
set -euo pipefail

packages=()
command -v chromium >/dev/null && command -v chromedriver >/dev/null || packages+=(chromium chromium-driver)
# Debian's redis-tools has the server's program without the service that redis-server would start at once.
command -v redis-server >/dev/null || command -v redis-check-rdb >/dev/null || packages+=(redis-tools)
[ ${#packages[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; }; then
    echo "tests: no way here to install ${packages[*]}; tests that use them will be skipped"
    exit 0
fi
echo "tests: installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
install() { "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1; }
install || { "${as_root[@]}" apt-get update -qq >/dev/null 2>&1 && install; } ||
    echo "tests: ${packages[*]} could not be installed; tests that use them will be skipped"
