#!/usr/bin/env bash
# Makes .venv and installs the lock file into it. Needs Python 3.11 or newer with pip; called by `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
virtualenv_version=21.15.8
torch_version="$(sed -n 's/^torch==//p' requirements/lock.txt)"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "'$python' is not installed; Isthmus needs Python 3.11 or newer (make setup PYTHON=/path/to/python3.11)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$python' is $("$python" --version 2>&1); Isthmus needs Python 3.11 or newer (make setup PYTHON=/path/to/python3.11)"

# Debian splits the venv module off Python, and the part left behind makes a .venv without pip.
with_venv() { "$python" -m venv --clear .venv >/dev/null 2>&1; }
with_virtualenv() {
    # --target keeps clear of the system's Python, which Debian does not let pip write to.
    "$python" -m pip install -qq --target .venv-bootstrap "virtualenv==$virtualenv_version" &&
        PYTHONPATH=.venv-bootstrap "$python" -m virtualenv --quiet --clear .venv
}
with_apt_get() {
    command -v apt-get >/dev/null || return 1
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq python3-venv && with_venv
}
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "making .venv with $("$python" --version)"
    if ! with_venv; then
        say "no venv module here; using virtualenv from pip"
        if ! with_virtualenv; then
            say "no virtualenv either; installing python3-venv with apt-get"
            with_apt_get || fail "no virtual environment could be made; install your system's venv package (Debian: python3-venv)"
        fi
        rm -rf .venv-bootstrap
    fi
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
has_torch() { .venv/bin/python -c "from importlib.metadata import version as v; import sys; sys.exit(v('torch').split('+')[0] != '$torch_version')" 2>/dev/null; }

# --no-deps keeps gigabytes of CUDA packages out, whatever build of torch pip finds.
if ! has_torch; then
    say "installing torch $torch_version"
    pip install -qq --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$torch_version"
fi
say "installing requirements/lock.txt (a few minutes)"
pip install -qq --no-deps -r requirements/lock.txt
pip install -qq --no-deps --no-build-isolation -e .
pip check
.venv/bin/python -c 'import torch' ||
    fail "this build of torch does not load without CUDA packages: make a CPU build reachable (TORCH_INDEX=URL of an index that has one), then run 'make clean-all setup'"
touch .venv/.installed
