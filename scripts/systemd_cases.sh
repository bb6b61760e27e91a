#!/bin/sh
# Resources, kills for memory, statistics and updates of limits under the systemd driver. For root on a machine that
# systemd has booted with cgroup v2 alone, where `make test` would do the same among much else.
#
#   scripts/systemd_cases.sh [pytest's options]
set -eu
cd "$(dirname "$0")/.."
[ -d /run/systemd/system ] && [ -f /sys/fs/cgroup/cgroup.controllers ] ||
  { echo "this machine has no systemd, or no cgroup v2" >&2; exit 1; }
if [ ! -x .venv/bin/pytest ]; then
  python3 -m venv .venv
  .venv/bin/pip install -q -e '.[dev]'
fi
exec .venv/bin/pytest -q -k 'not cgroupfs' \
  tests/host/oci/test_runtime_limits.py \
  tests/host/cgroup/test_oom.py \
  tests/host/cgroup/test_cgroups.py \
  tests/host/cgroup/test_container_cgroup.py \
  tests/contracts/test_cgroups.py \
  tests/contracts/test_oci.py \
  tests/daemon/test_resources.py \
  tests/daemon/test_stats.py \
  "$@"
