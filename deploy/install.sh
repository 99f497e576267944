#!/usr/bin/env bash
# Installs Isthmus for serving into a virtual environment of its own: the lock file without what only development needs.
#   deploy/install.sh FOLDER
set -euo pipefail
target="${1:?usage: deploy/install.sh FOLDER}"
cd "$(dirname "$0")/.."

"${PYTHON:-python3}" -m venv "$target"
pip() { "$target/bin/python" -m pip --disable-pip-version-check -q "$@"; }
torch="$(grep '^torch==' requirements/lock.txt)"
pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
# With the lock as constraints, pip takes what the extra needs and nothing else, each at its locked version.
wheels="$(mktemp -d)"
trap 'rm -rf "$wheels"' EXIT
pip wheel --no-deps -w "$wheels" .
wheel="$(echo "$wheels"/isthmus-*.whl)"
pip install -c requirements/lock.txt "$wheel[serve]"
"$target/bin/isthmus" serve --help >/dev/null
