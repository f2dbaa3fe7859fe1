#!/usr/bin/env bash
# Renew the locks from requirements.in. Needs `pip install uv`.
set -eu
cd "$(dirname "$0")/.."

compile() {  # OUTPUT [uv options...] < requirements
  local output=$1
  shift
  uv pip compile --quiet --universal --python-version 3.9 --no-header "$@" - | {
    echo "# Locked by tools/lock.sh for Linux x86-64, Python 3.9 to 3.12 (3.12: pip install --no-deps -r)"
    # the lock is resolved for one platform: its marker on every line says nothing
    sed -E "s/ and platform_machine == 'x86_64' and sys_platform == 'linux'//; s/ ; platform_machine == 'x86_64' and sys_platform == 'linux'//"
  } > "$output.new"
  mv "$output.new" "$output"
}

compile requirements.txt < requirements.in
sed 's/^paddlepaddle==/paddlepaddle-gpu==/' requirements.in | compile requirements-gpu.txt
# Paddle 3 appeared after the day that the other packages are held at
sed 's/^paddlepaddle==.*/paddlepaddle==3.3.1/' requirements.in | compile requirements-paddle3.txt \
  --exclude-newer-package paddlepaddle=2026-11-01 --exclude-newer-package safetensors=2026-11-01

# Paddle Serving's own packages ask for ones that no longer install, so they stay out of the resolution
grep -v '^paddle-serving' requirements-serving.in | compile requirements-serving.txt
grep '^paddle-serving' requirements-serving.in >> requirements-serving.txt
