#!/usr/bin/env bash
# Multi-task training on the devices of one machine, from the root of the checkout:
#   launch/local.sh DEVICES CONFIG [key=value ...]
# The same command resumes; SIGTERM and SIGUSR1 stop with a checkpoint and status 0. PYTHON names another interpreter than
# that of .venv.
set -euo pipefail
if [ "$#" -lt 2 ]; then
    echo "usage: launch/local.sh DEVICES CONFIG [key=value ...]" >&2
    exit 2
fi
devices=$1
config=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
"$python" -m torch.distributed.run --standalone --nproc-per-node="$devices" \
    "$root/train/multitask.py" "$config" "$@" devices="$devices" &
launcher=$!
# The launcher would give the ranks half a minute to end, and not tell them of SIGUSR1: they are told past it.
trap 'told=1; kill -USR1 $(cat "/proc/$launcher/task/"*/children) || true' USR1 TERM

# A signal ends the wait, not the launcher.
told=1 status=0
while [ -n "$told" ]; do
    told= status=0
    wait "$launcher" || status=$?
done
exit "$status"
