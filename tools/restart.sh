#!/usr/bin/env bash
# Run a command again when it fails, at most so many times:
#
#   bash tools/restart.sh 10 python -m paddle.distributed.launch --nproc_per_node 8 \
#     tools/train.py -c configs/base.yaml --resume auto
#
# It stops at exit code 0 (done) and 2 (the user's mistake, which no restart mends), and at Ctrl-C,
# SIGTERM and SIGHUP, which the command gets too (the last two as SIGTERM). Without etcd the launcher
# itself restarts nothing.
set -u
restarts=$1
shift
stopped= interrupted=

trap 'stopped=1 interrupted=1' INT # the terminal sends it to the command as well
trap 'stopped=1 interrupted=1; kill -TERM "$child" 2>/dev/null' TERM HUP # under nohup bash traps no HUP
for ((n = 1; ; n++)); do
  "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  while [ -n "$interrupted" ]; do # a signal may have ended the wait, not the command
    interrupted= again=0
    wait "$child" || again=$?
    [ "$again" = 127 ] || code=$again # 127: its code is known already
  done
  if [ "$code" = 0 ] || [ "$code" = 2 ] || [ "$n" -gt "$restarts" ]; then
    exit "$code"
  fi
  if [ -z "$stopped" ]; then
    echo "restart.sh: exit code $code; restart $n of $restarts" >&2
    sleep 5 # for the ports and the peers of the run that ended
  fi
  if [ -n "$stopped" ]; then
    exit "$code"
  fi
done
