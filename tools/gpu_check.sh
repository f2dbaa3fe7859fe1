#!/usr/bin/env bash
# Checks the GPUs of this machine in less than 15 minutes: bash tools/gpu_check.sh [--gpus N]
#   --gpus N    uses the first N; all by default
#   --rehearse  runs the checks on the CPU, to try the checks themselves
#   --json FILE, --keep FOLDER, --parts PART...: docs/gpu_check.md
# Exit code 0: all passed, 1: some did not, 2: there is no GPU, or another mistake.
# ERNIE_VIL2_VENV and ERNIE_VIL2_REQUIREMENTS name another environment and its requirements.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -u
exec </dev/null
# shellcheck source=tools/_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"

rehearse=
for option; do
  case "$option" in --rehearse | --help | -h) rehearse=1 ;; esac
done
# before an environment of gigabytes is made
[ -n "$rehearse" ] || cards >/dev/null ||
  fail "no GPU: nvidia-smi does not answer; --rehearse runs the checks on the CPU"

choose_requirements
make_environment "${ERNIE_VIL2_VENV:-.venv}" "$requirements"
exec "$venv/bin/python" -m tools.gpu_check "$@"
