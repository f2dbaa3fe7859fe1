#!/usr/bin/env bash
# The tests, alone on a fresh machine too: bash tools/test.sh [--all] [--jobs N] [--paddle3] [pytest's options...]
#   --all      the slow ones as well (half an hour)
#   --jobs N   N tests at a time
#   --paddle3  on Paddle 3, in .venv-paddle3
#   --dry-run, --dry-run=9.0,550.54   as in quickstart.sh: say what would be installed
# ERNIE_VIL2_VENV and ERNIE_VIL2_REQUIREMENTS name another environment and its requirements.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -u
exec </dev/null
# shellcheck source=tools/_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"

which_tests=(-m "not slow") jobs=()
environment=.venv dry_run="" card=""
while :; do
  case "${1:-}" in
    --all) which_tests=() ;;
    --jobs)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "--jobs ${2:-}: expected how many tests run at a time"
      jobs=(-n "$2")
      shift
      ;;
    --paddle3)
      environment=.venv-paddle3
      export ERNIE_VIL2_REQUIREMENTS="${ERNIE_VIL2_REQUIREMENTS:-requirements-paddle3.txt}"
      ;;
    --dry-run | --dry-run=*) dry_run=yes card=$(dry_run_card "$1") || exit ;;
    *) break ;;
  esac
  shift
done

environment=${ERNIE_VIL2_VENV:-$environment}
choose_requirements "$card"
if [ -n "$dry_run" ]; then say_plan "$environment" && exit; fi
make_environment "$environment" "$requirements"
install requirements-test.txt
python=$venv/bin/python

rc=0
"$python" -m ruff check . || rc=1
"$python" -m ruff format --check . || rc=1
"$python" -m mypy || rc=1
"$python" -m pytest -q ${jobs[@]+"${jobs[@]}"} ${which_tests[@]+"${which_tests[@]}"} "$@" || rc=1
exit "$rc"
