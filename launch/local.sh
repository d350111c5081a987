#!/usr/bin/env bash
# Multi-task training on the devices of one machine, from the root of the checkout:
#   launch/local.sh DEVICES CONFIG [key=value ...]
# The same command resumes. PYTHON names another interpreter than that of .venv.
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
exec "$python" -m torch.distributed.run --standalone --nproc-per-node="$devices" \
    "$root/train/multitask.py" "$config" "$@" devices="$devices"
