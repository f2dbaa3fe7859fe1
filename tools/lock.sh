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
{
  sed 's/^paddlepaddle==/paddlepaddle-gpu==/' requirements.in
  cat requirements-gpu.in
} | compile requirements-gpu.txt

# Paddle 3 appeared after the day that the other packages are held at
compile_paddle3() { # OUTPUT < more requirements
  { sed 's/^paddlepaddle==.*/paddlepaddle==3.3.1/' requirements.in && cat; } | compile "$1" \
    --exclude-newer-package paddlepaddle=2026-11-01 --exclude-newer-package safetensors=2026-11-01
}
compile_paddle3 requirements-paddle3.txt < /dev/null
# The wheel for GPUs is in an index of its own, and asks for what the one for CPUs does and for CUDA:
# so the lock needs the other index to be installed, not to be made. What only that index has goes
# first: where it cannot be reached, pip says so at once.
grep -v '^--' requirements-gpu-paddle3.in | compile_paddle3 requirements-gpu-paddle3.txt
{
  grep '^#' requirements-gpu-paddle3.txt | head -n 1
  grep '^#' requirements-gpu-paddle3.in
  grep '^--' requirements-gpu-paddle3.in
  sed -n 's/^paddlepaddle==/paddlepaddle-gpu==/p' requirements-gpu-paddle3.txt
  sed -e 1d -e '/^paddlepaddle==/d' -e 's/^\( *#.*\)paddlepaddle$/\1paddlepaddle-gpu/' requirements-gpu-paddle3.txt
} > requirements-gpu-paddle3.new
mv requirements-gpu-paddle3.new requirements-gpu-paddle3.txt

# Paddle Serving's own packages ask for ones that no longer install, so they stay out of the resolution
grep -v '^paddle-serving' requirements-serving.in | compile requirements-serving.txt
grep '^paddle-serving' requirements-serving.in >> requirements-serving.txt
# the same, with Paddle for GPUs and the CUDA libraries that it opens
{
  grep -v '^paddle-serving' requirements-serving.in | sed 's/^paddlepaddle==/paddlepaddle-gpu==/'
  cat requirements-gpu.in
} | compile requirements-serving-gpu.txt
grep '^paddle-serving' requirements-serving.in >> requirements-serving-gpu.txt
