#!/bin/sh
# What sessions must bear, in full size, and the figures of it: half an hour, as root. Words are pytest's own, as in
# `scripts/battery.sh -k guess`.
cd "$(dirname "$0")/.." && SAMPAN_BATTERY=1 exec .venv/bin/pytest -q -s tests/daemon/test_battery.py tests/daemon/test_soak.py "$@"
