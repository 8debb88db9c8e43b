#!/bin/sh
# Have the engine: its driver first, then a container image, or the wheel that the controller runs itself, by its hash.
set -eu
. /opt/halve/engine.env
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || { echo "halve: no NVIDIA driver in this image"; exit 1; }
if [ -n "$HALVE_IMAGE" ]; then
  for attempt in 1 2 3 4 5; do
    docker pull --quiet "$HALVE_IMAGE" && exit 0
    sleep "$attempt"
  done
  exit 1
fi
[ -n "$HALVE_WHEEL" ] || exit 0 # the image brings it in /opt/halve/venv
wheel="/opt/halve/$(basename "$HALVE_WHEEL")"
for attempt in 1 2 3 4 5; do
  aws s3 cp --region "$HALVE_REGION" --only-show-errors "$HALVE_WHEEL" "$wheel" && break
  sleep "$attempt"
done
echo "$HALVE_WHEEL_SHA256  $wheel" | sha256sum --check --quiet
python3 -m venv /opt/halve/venv || { apt-get update -q && apt-get install -qy python3-venv && python3 -m venv /opt/halve/venv; }
# CUDA 13 has no code for cards before 7.5 (V100); cuda12.txt is what constraints-cuda12.txt says of theirs
case "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)" in
  [1-6].* | 7.[0-4]) set -- --constraint /opt/halve/cuda12.txt ;;
  *) set -- ;;
esac
/opt/halve/venv/bin/pip install --quiet --no-input "$@" "$wheel[gpu]"
