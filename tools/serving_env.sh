#!/usr/bin/env bash
# Makes .venv-serving, the environment of tools/serve_paddle.py: bash tools/serving_env.sh
# With an NVIDIA GPU it gets Paddle for GPUs; ERNIE_VIL2_DEVICE=cpu leaves that alone.
# ERNIE_VIL2_SERVING_VENV names another folder. A second run completes what a first one left.
#   --dry-run            say what would be installed, by the card and the driver here
#   --dry-run=8.0,535.54 the same for a card of that compute capability and a driver
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -u
exec </dev/null
# shellcheck source=tools/_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
environment=${ERNIE_VIL2_SERVING_VENV:-.venv-serving} card="" dry_run=""
case "${1:-}" in
  "") ;;
  --dry-run | --dry-run=*) dry_run=yes card=$(dry_run_card "$1") || exit ;;
  *) fail "unknown option $1: --dry-run is the only one" ;;
esac
choose_requirements "$card"
# shellcheck disable=SC2034
case "$requirements" in
  *requirements-gpu.txt) requirements=requirements-serving-gpu.txt needed_gb=10 ;;
  *requirements-gpu*)
    fail "$found needs Paddle 3, and Paddle Serving 0.9 reads programs of Paddle 2.6: serve with" \
      "tools/serve.py, or on the CPU with ERNIE_VIL2_DEVICE=cpu"
    ;;
  *) requirements=requirements-serving.txt needed_gb=3 ;;
esac
if [ -n "$dry_run" ]; then say_plan "$environment" && exit; fi
client="paddle-serving-client==0.9.0"

# Paddle Serving asks for packages of 2021, which no longer install; the lock has newer ones
export PIP_NO_DEPS=1
make_environment "$environment" "$requirements"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') ||
  fail "$venv is damaged: remove it and run this again"

# The client's module imports these from where Python had them until 3.9.
cat > "$site/sitecustomize.py" <<'EOF' || fail "cannot write in $site"
import collections
import collections.abc

for name in ("Callable", "Iterable", "Mapping", "MutableMapping", "Sequence"):
    setattr(collections, name, getattr(collections.abc, name))
EOF

# It has a wheel for Python 3.9 alone, of which any Python can use the Python files. Its library for
# the C++ server (180 MB) needs that very version.
if [ "$(cat "$venv/client.installed" 2>/dev/null)" != "$client" ]; then
  say "installing $client into ${venv#"$root"/}, log in ${venv#"$root"/}/client.log"
  "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --no-compile --upgrade \
    --target "$site" --only-binary=:all: --python-version 39 --platform manylinux1_x86_64 \
    "$client" > "$venv/client.log" 2>&1 ||
    fail "$(grep -m 1 -iE '^ *error' "$venv/client.log" || tail -n 1 "$venv/client.log")"
  case "$("$venv/bin/python" -V)" in
    "Python 3.9."*) ;;
    *) rm -f "$site/paddle_serving_client/serving_client.so" ;;
  esac
  say "$client" > "$venv/client.installed"
fi

# importing Paddle Serving makes folders where it runs
(cd "$venv" && PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python SERVING_LOG_PATH=$venv \
  bin/python -c 'import paddle_serving_app.local_predict, paddle_serving_server.web_service' \
  > import.log 2>&1) || fail "Paddle Serving does not start: $(tail -n 1 "$venv/import.log")"
say "ready: ${venv#"$root"/}/bin/python tools/serve_paddle.py DIR"
