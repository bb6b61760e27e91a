#!/bin/sh
# The benchmark (bench/bench.py, which says what the options are) on the project's own Python. Needs root.
cd "$(dirname "$0")/.." && exec .venv/bin/python -m bench.bench "$@"
