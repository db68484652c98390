#!/usr/bin/env bash
# train.py for schedulers that take exit code 0 for the end of a run: here a run that a
# signal stopped before its end exits with 75, try again.
#
#     RUN=runs/imagenet launch/run.sh --config=configs/imagenet.py
set -u
python train.py --workdir="$RUN" "$@" &
train=$!
trap 'kill -TERM "$train"' TERM INT HUP USR1 USR2 # a shell hands no signal on by itself
wait "$train" && code=0 || code=$?
while kill -0 "$train" 2>/dev/null; do # the signal ended the wait and not the run
  wait "$train" && code=0 || code=$?
done
if [ "$code" -eq 0 ] && ! grep -qs test_accuracy "$RUN/metrics.jsonl"; then
  code=75
fi
exit "$code"
