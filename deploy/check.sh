#!/usr/bin/env bash
# The steps of the Containerfile without a container engine: install, serve as a user without rights, ask, stop.
#   deploy/check.sh BUNDLE [FOLDER of an installation; without it, one is made]
set -euo pipefail
bundle="$(realpath "${1:?usage: deploy/check.sh BUNDLE [INSTALLATION]}")"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
chmod 755 "$work"
server=""
end() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap end EXIT

installed="${2:-}"
if [ -z "$installed" ]; then
    installed="$work/isthmus"
    "$here/install.sh" "$installed"
fi
python="$installed/bin/python"
port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
mkdir "$work/events"
as_user=()
nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs)
if [ "$(id -u)" -ne 0 ] || [ -n "${KEEP_USER:-}" ] || ! command -v setpriv >/dev/null; then
    echo "deploy: serving as the present user"
elif ! "${nobody[@]}" sh -c "$(readlink -f "$python") -c pass" 2>/dev/null; then
    echo "deploy: no other user may run $(readlink -f "$python"); serving as the present one"
else
    cp -r "$bundle" "$work/bundle"  # where the user may read it, whatever lies above the original
    bundle="$work/bundle"
    chown 65534 "$work/events"
    as_user=("${nobody[@]}")
fi
cd "$work"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HOME=/nonexistent ISTHMUS_TOKEN=checked
"${as_user[@]}" "$python" -m isthmus serve "$bundle" --port "$port" --workers 2 --events events/events.sqlite >"$work/log" 2>&1 &
server=$!
ask() { "$python" - "$port" "$@" <<'PY'
import json, sys, urllib.request
port, path, *body = sys.argv[1:]
data = body[0].encode() if body else None
headers = {"Authorization": "Bearer checked", "Content-Type": "application/json"}
request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).read().decode())
PY
}
is_ready=""
for _ in $(seq 60); do
    if ask /readyz >/dev/null 2>&1; then is_ready=1; break; fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
done
[ -n "$is_ready" ] || { cat "$work/log" >&2; exit 1; }
domain="$(ask /v1/domains | "$python" -c 'import json, sys; print(json.load(sys.stdin)["domains"][0]["name"])')"
answer="$(ask /v1/recommend "{\"domain\": \"$domain\", \"user\": \"nobody\", \"k\": 1}")"
grep -q '"basis":"popular"' <<<"$answer"
page="$(ask /)"  # whole before grep reads: a grep that found its words would close the pipe under the asker
grep -q '<title>Isthmus' <<<"$page"
kill "$server"
wait "$server" || [ $? -eq 143 ]
server=""
echo "deploy: a server of 2 workers answered for domain '$domain' and stopped in order"
