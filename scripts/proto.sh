#!/bin/sh
# Generates the Python code of every src/sampan/api/*.proto into OUT (default: src, where it is committed).
# All files in one protoc call, so that imports between them resolve and the output does not depend on the order.
set -eu
cd "$(dirname "$0")/.."
out=${1:-src}
PATH=$PWD/.venv/bin:$PATH # protoc finds the mypy plugins there
exec .venv/bin/python -m grpc_tools.protoc -Isrc \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" src/sampan/api/*.proto
