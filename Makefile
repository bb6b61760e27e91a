# Each target prepares what it needs: `make demo` and `make test` work right after `git clone` on Debian 12 or newer.
.DEFAULT_GOAL := help
.PHONY: help venv demo test check lint proto golden coverage bench run

BIN := .venv/bin
# Pods need root. A run through sudo must not leave root's caches in the checkout.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo env PYTHONDONTWRITEBYTECODE=1)
SOURCES := src tests scripts bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: ## .venv with sampan (editable) and all tools of its development
	@scripts/bootstrap.sh test

demo: ## start a daemon, run a pod that serves a page, fetch it, remove everything
	@scripts/bootstrap.sh demo
	@$(AS_ROOT) $(BIN)/python -m scripts.demo

test: ## everything: linters, unit tests, tests on the real kernel, crictl and critest (root)
	@scripts/bootstrap.sh test
	@$(MAKE) --no-print-directory lint
	$(AS_ROOT) timeout --kill-after=60 5400 $(BIN)/pytest </dev/null

check: ## linters and the tests that need no root; under a minute
	@scripts/bootstrap.sh test
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -q -m 'not root'

lint:
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: ## regenerate the code of src/sampan/api/*.proto
	@scripts/bootstrap.sh test
	scripts/proto.sh

golden: ## accept what the spec builders produce now; the diff is the review
	SAMPAN_GOLDEN=update $(BIN)/pytest -q tests/spec

coverage: ## docs/cri-coverage.md from its .toml: every field of every request, and the test that proves it
	$(BIN)/python -m scripts.coverage_table

bench: ## measure against the budgets; BENCH='--pods 50 --density 60 --json out.json' passes options
	@scripts/bootstrap.sh test
	@$(AS_ROOT) scripts/bench.sh $(BENCH)

run: ## a private daemon in the foreground with a debug log, until ^C
	@scripts/bootstrap.sh demo
	@$(AS_ROOT) $(BIN)/python -m scripts.private_daemon
