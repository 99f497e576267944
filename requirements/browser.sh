#!/usr/bin/env bash
# Installs Chromium and its driver, which tests show the served page in; never fails, for those tests skip without it.
set -euo pipefail

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; }; then
    echo "tests: no Chromium here and no way to install it; tests of the page will be skipped"
    exit 0
fi
echo "tests: installing Chromium for the tests of the page"
export DEBIAN_FRONTEND=noninteractive
install() { "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null 2>&1; }
install || { "${as_root[@]}" apt-get update -qq >/dev/null 2>&1 && install; } ||
    echo "tests: Chromium could not be installed; tests of the page will be skipped"
