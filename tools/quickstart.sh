#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated model: bash tools/quickstart.sh
# Run again, it goes on where it stopped; when all is done, it shows the evaluation again.
#   --dry-run            say what would be installed, by the card and the driver here
#   --dry-run=9.0,550.54 the same for a card of that compute capability and a driver
# PYTHON=/path/to/python chooses the Python, ERNIE_VIL2_DEVICE=cpu leaves an NVIDIA GPU alone,
# ERNIE_VIL2_REQUIREMENTS names other requirements than those chosen by the card.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -u
exec </dev/null
# shellcheck source=tools/_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"

step() { # NUMBER TITLE COMMAND...
  local start=$SECONDS
  say "" "[$1/5] $2"
  shift 2
  "$@" || exit
  say "done in $((SECONDS - start)) s"
}

device=()
if [ "${ERNIE_VIL2_DEVICE:-}" = cpu ]; then device=(-o Global.device=cpu); fi
case "${1:-}" in
  --dry-run | --dry-run=*)
    card=$(dry_run_card "$1") || exit
    choose_requirements "$card" && say_plan .venv
    exit
    ;;
  ?*) fail "unknown option $1: --dry-run is the only one" ;;
esac
choose_requirements

step 1 "environment" make_environment .venv "$requirements"
python=$venv/bin/python
step 2 "data" "$python" tools/prepare_data.py emoji --out data/emoji
step 3 "training" "$python" tools/train.py -c configs/demo.yaml --resume auto ${device[@]+"${device[@]}"}
step 4 "evaluation" "$python" tools/eval.py -c configs/demo.yaml -w output/demo/checkpoints/best \
  -o DataLoader.Eval.dataset.path=data/emoji/test.tsv ${device[@]+"${device[@]}"}

index_pictures() {
  # what is there may be of an earlier training: the index then is one of another model
  "$python" tools/export.py -c configs/demo.yaml -w output/demo/checkpoints/best --save-dir output/demo/exported \
    ${device[@]+"${device[@]}"} &&
    "$python" tools/index.py output/demo/exported data/emoji/pictures --db output/demo/pictures.db \
      --tags-file data/emoji/pictures.jsonl --rebuild
}
step 5 "index" index_pictures

say "" "The run, its settings and its log: output/demo" \
  "Page of found pictures, report:    output/demo/eval/page.html, report.json" \
  "Curves and sample views:           .venv/bin/visualdl --logdir output/demo/vdl" \
  "" "Search the drawings, at http://127.0.0.1:8080/ after" \
  "  .venv/bin/python tools/serve.py output/demo/exported --db output/demo/pictures.db" \
  "or here; the model is small, and finds what it was asked for among the first ten one time in five:" \
  '  .venv/bin/python tools/search.py output/demo/pictures.db "red apple"' \
  "  .venv/bin/python tools/search.py output/demo/pictures.db 彩虹" \
  '  .venv/bin/python tools/search.py output/demo/pictures.db "data/emoji/pictures/animals/cat face.webp"'
