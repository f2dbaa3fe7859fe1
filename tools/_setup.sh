# Sourced by quickstart.sh and test.sh: goes to the project's root and makes its environment.
# shellcheck shell=bash

# CDPATH would make cd print, the others would mix foreign packages into the environment
unset CDPATH PYTHONHOME PYTHONPATH
case "${PYTHON:-}" in [!/]*/*) PYTHON=$PWD/$PYTHON ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD
needed_gb=6 # 2 GB in the end, plus the downloads while they are unpacked

say() { printf '%s\n' "$@"; } # one line per argument
fail() { # one line, and the exit code of a user's mistake
  printf 'error: %s\n' "$*" >&2
  exit 2
}
trap 'echo >&2; echo "interrupted; the same command goes on from here" >&2; exit 130' INT

# Whether version $1 is older than $2, number by number.
older() { # VERSION VERSION
  awk -v a="$1" -v b="$2" 'BEGIN {
    n = split(a, x, "."); m = split(b, y, ".")
    for (i = 1; i <= (n > m ? n : m); i++) if (x[i] + 0 != y[i] + 0) exit !(x[i] + 0 < y[i] + 0)
    exit 1
  }'
}

# The cards, a line "CAPABILITY, DRIVER, NAME" for each; fails where there is none. A driver that does
# not know the question for the capability is older than the first for Hopper: its answer is "?".
cards() {
  local answer query="nvidia-smi --format=csv,noheader --query-gpu"
  command -v nvidia-smi >/dev/null || return
  $query=compute_cap,driver_version,name 2>/dev/null && return
  answer=$($query=driver_version,name 2>/dev/null) && [ -n "$answer" ] && printf '?, %s\n' "${answer//$'\n'/$'\n'?, }"
}

# Sets $requirements to the lock for this machine, $needed_gb to the disk it takes, $found to why.
# ERNIE_VIL2_DEVICE=cpu leaves a GPU alone, ERNIE_VIL2_REQUIREMENTS chooses by hand. docs/gpu.md
choose_requirements() { # [CAPABILITY,DRIVER of a card to plan for]
  local list least most driver wanted least_name most_name
  requirements="requirements.txt" found="no NVIDIA GPU"
  if [ -n "${ERNIE_VIL2_REQUIREMENTS:-}" ]; then
    requirements=$ERNIE_VIL2_REQUIREMENTS found="ERNIE_VIL2_REQUIREMENTS"
  elif [ -n "${1:-}" ]; then
    list="${1%%,*}, ${1#*,}, a card to plan for"
  elif [ "${ERNIE_VIL2_DEVICE:-}" = cpu ]; then
    found="ERNIE_VIL2_DEVICE=cpu"
  else
    list=$(cards) || list=""
  fi
  if [ -n "${list:-}" ]; then
    IFS=$'\t' read -r least most driver least_name most_name < <(awk -F ', *' -v OFS='\t' '
      $1 !~ /^[0-9]+\.[0-9]+$/ { $1 = "8.9" } # "?": older than Hopper
      { split($1, part, "."); rank = part[1] * 100 + part[2] }
      NR == 1 || rank < low { low = rank; least = $1; least_name = $3 }
      NR == 1 || rank > high { high = rank; most = $1; most_name = $3 }
      { driver = $2 }
      END { print least, most, driver, least_name, most_name }' <<< "$list")
    found="$least_name, compute capability $least, driver $driver"
    case "$list" in "?"*) found="$least_name, driver $driver, too old to tell the compute capability" ;; esac
    [ "$least" = "$most" ] || found="$found, and $most_name, $most"
    if older "$least" 6.1; then
      fail "$least_name has compute capability $least, and Paddle's wheels have code for 6.1 and newer:" \
        "ERNIE_VIL2_DEVICE=cpu uses the CPU"
    elif older "$most" 9.0; then
      requirements="requirements-gpu.txt" wanted=450.80.02 # CUDA 11
    elif ! older "$least" 8.0; then
      requirements="requirements-gpu-paddle3.txt" wanted=550.54.14 # as Paddle's guides say
    else
      fail "$least_name has compute capability $least and $most_name $most, and no wheel is for both:" \
        "choose by ERNIE_VIL2_REQUIREMENTS=requirements-gpu.txt for the one or" \
        "requirements-gpu-paddle3.txt for the other, and by CUDA_VISIBLE_DEVICES when training"
    fi
    ! older "$driver" "$wanted" ||
      fail "the NVIDIA driver is $driver, and $requirements needs $wanted or newer: update it, or" \
        "ERNIE_VIL2_DEVICE=cpu uses the CPU"
  fi
  case "$requirements" in
    *requirements-gpu.txt) needed_gb=13 ;; # 7.2 in the end, 9.8 while unpacking, and pip's cache
    *requirements-gpu-paddle3.txt) needed_gb=20 ;; # estimated: never installed
  esac
}

# The card that --dry-run=CAPABILITY,DRIVER plans for; none for the card that is here.
dry_run_card() { # OPTION
  case "$1" in
    --dry-run) ;;
    --dry-run=[0-9]*.[0-9]*,[0-9]*) say "${1#*=}" ;;
    *) fail "$1: as in --dry-run=9.0,550.54.14, a compute capability and a driver" ;;
  esac
}

# Says what make_environment would do, for --dry-run.
say_plan() { # VENV
  say "found: $found" "would install: $requirements into $1" \
    "disk: $needed_gb GB are needed in $root, $(df -Pk "$root" | awk 'NR == 2 { printf "%d", $4 / 1048576 }') GB are free" \
    "nothing was changed"
}

# pip's CUDA libraries where Paddle 2.6's wheel for GPUs finds them; a program would do it too.
link_cuda_libraries() { # FILE
  case "$1" in *requirements-gpu.txt | *requirements-serving-gpu.txt) ;; *) return ;; esac
  local name
  "$venv/bin/python" -c 'from ernie_vil2 import runtime; print(*runtime.link_cuda_libraries(), sep="\n")' ||
    fail "the CUDA libraries cannot be linked in $venv"
  for name in libcublas libcudnn libnccl; do
    [ -e "$venv"/lib/python3.*/site-packages/paddle/libs/$name.so ] || fail "$venv lacks $name.so: rm -rf $venv, and again"
  done
}

# Sets $python to the first usable Python: 3.9 to 3.11, else 3.12.
find_python() {
  local names=(python3.11 python3.10 python3.9 python3.12 python3 python)
  local version path wanted seen="" no_venv=""
  [ -n "${PYTHON:-}" ] && names=("$PYTHON")
  for wanted in "3.9 3.10 3.11" "3.12"; do
    while IFS= read -r path; do
      # A name on the PATH may be a version manager's that leads nowhere: asking is the only way.
      version=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null 2>/dev/null) || continue
      case " $wanted " in
        *" $version "*) ;;
        *)
          case "$seen" in *"$path"*) ;; *) seen="$seen${seen:+, }$version ($path)" ;; esac
          continue
          ;;
      esac
      if "$path" -c 'import ensurepip, venv' 2>/dev/null; then
        python=$path
        return
      fi
      no_venv="${no_venv:-Python $version ($path) lacks venv: apt-get install python$version-venv}"
    done < <(type -aP "${names[@]}" 2>/dev/null)
  done
  [ -n "$no_venv" ] && fail "$no_venv"
  fail "Python 3.9, 3.10, 3.11 or 3.12 is needed, found ${seen:-none${PYTHON:+ at $PYTHON}}:" \
    "install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

# The fingerprint that says what was installed from FILE.
fingerprint() { # FILE
  "$venv/bin/python" - "$1" <<'EOF'
import hashlib, sys
print(*sys.version_info[:2], hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
EOF
}

# Whether FILE was installed completely, as it is now.
installed() { # FILE
  local marker=$venv/${1##*/}.installed
  [ -s "$marker" ] && [ "$(cat "$marker")" = "$(fingerprint "$1" 2>/dev/null)" ]
}

# pip's output to one line per package: a moving line on a terminal, a few lines elsewhere.
show_progress() { # FILE
  local total seen=0 line what
  total=$(grep -c '^[a-z]' "$1")
  while IFS= read -r line; do
    case "$line" in
      Collecting\ * | "Requirement already satisfied: "*" (from -r "*)
        seen=$((seen + 1))
        what=${line#Requirement already satisfied: }
        what=${what#Collecting }
        what="$seen of $total: ${what%% *}"
        [ -t 1 ] || [ $((seen % 20)) -eq 0 ] || continue
        ;;
      *Downloading\ *MB\)* | *Downloading\ *GB\)*)
        [ -t 1 ] || case "$line" in *[0-9][0-9][0-9].[0-9]\ MB* | *GB*) ;; *) continue ;; esac
        what=${line##*/}
        what="downloading ${what#*Downloading }"
        ;;
      Installing\ collected\ *) what="unpacking" ;;
      *) continue ;;
    esac
    if [ -t 1 ]; then printf '\r\033[K  %.90s' "$what"; else say "  $what"; fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

install() { # FILE: what it lists, into $venv, unless that was done before
  local file=$1 log=$venv/${1##*/}.log info free reason options=(--no-input --disable-pip-version-check)
  installed "$file" && return
  rm -f "$venv/checked"
  say "installing $file into ${venv#"$root"/}, log in ${log#"$root"/}"

  # a package of which a killed pip wrote only a part would count as installed
  for info in "$venv"/lib/python*/site-packages/*.dist-info; do
    [ -e "$info/RECORD" ] || rm -rf "$info"
  done
  # PaddleClas pins a numpy that has no wheel for 3.12; the lock overrides it, plain pip cannot
  case "$("$venv/bin/python" -V)" in "Python 3.12."*) options+=(--no-deps) ;; esac

  "$venv/bin/python" -m pip install "${options[@]}" -r "$file" 2>&1 | tee "$log" | show_progress "$file"
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then
    free="$(df -Pk "$venv" | awk 'NR == 2 { printf "%.1f", $4 / 1048576 }') GB free"
    if grep -q 'No space left on device' "$log"; then
      reason="no space left on the disk ($free here; also look at \$TMPDIR)."
    elif grep -q 'No matching distribution found for paddlepaddle-gpu==3' "$log"; then
      reason="Paddle's own package index, which $file names, cannot be reached or has no wheel for this Python."
    elif grep -qE 'from versions: none|ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded' "$log"; then
      reason="the package index cannot be reached: is there a network?"
    else
      reason="pip failed: $(grep -m 1 -iE '^ *error' "$log" || tail -n 1 "$log")"
    fi
    fail "$reason Details in $log; the same command goes on from here."
  fi
  fingerprint "$file" > "$venv/${file##*/}.installed"
}

# What the wheels need from the system and a slim one lacks.
check_system_libraries() {
  [ -e "$venv/checked" ] && return
  local missing packages="libgl1 libglib2.0-0 libgomp1"
  missing=$("$venv/bin/python" -c 'import cv2, paddle' 2>&1 >/dev/null) && touch "$venv/checked" && return
  case "$missing" in
    *"cannot open shared object file"*) missing=${missing##*ImportError: } missing=${missing%%:*} ;;
    *) fail "paddle or cv2 cannot be imported from $venv: ${missing##*$'\n'}" ;;
  esac
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "$missing is missing: apt-get install $packages"
    # shellcheck disable=SC2086
    if { apt-get update && apt-get install -y --no-install-recommends $packages; } > "$venv/apt.log" 2>&1 &&
      "$venv/bin/python" -c 'import cv2, paddle' >/dev/null 2>&1; then
      touch "$venv/checked"
      return
    fi
  fi
  fail "the system lacks $missing: sudo apt-get install $packages (on Debian and Ubuntu)"
}

# Makes or completes the environment $1 with what $2 lists; sets $venv.
make_environment() { # VENV FILE
  local file=$2 free used made_for
  case "$1" in /*) venv=$1 ;; *) venv=$root/$1 ;; esac
  if [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$venv" ]; then
    say "the active environment $VIRTUAL_ENV stays as it is; using $1"
  fi
  if ! installed "$file"; then
    case "$(uname -sm)" in
      "Linux x86_64") ;;
      *) fail "the locked requirements are for Linux x86_64, this is $(uname -sm)" ;;
    esac
    [ -r "$file" ] || fail "$file cannot be read: it should list the requirements"
    find_python
    free=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
    used=$(du -sk "$venv" 2>/dev/null | cut -f 1)
    [ $((free + ${used:-0})) -ge $((needed_gb << 20)) ] ||
      fail "$needed_gb GB of free disk are needed in $root, found $((free >> 10)) MB"

    # Another Python, or paddle for another device, would leave a mixture.
    made_for="$("$python" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])'), $file"
    if [ -e "$venv" ] && { ! "$venv/bin/python" -c '' 2>/dev/null ||
      [ "$(cat "$venv/made.for" 2>/dev/null || say "$made_for")" != "$made_for" ]; }; then
      say "$1 is not one for $made_for: making it anew"
      rm -rf "$venv"
    fi
    say "Python: $("$python" -V | cut -d ' ' -f 2) ($python)"
    { mkdir -p "$venv" && say "$made_for" > "$venv/made.for"; } || fail "cannot write in $venv"
    "$python" -m venv "$venv" > "$venv/venv.log" 2>&1 ||
      fail "$python cannot make an environment in $venv: $(tail -n 1 "$venv/venv.log")"
    install "$file"
    link_cuda_libraries "$file"
  fi
  check_system_libraries
}
