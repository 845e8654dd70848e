# kubeway: `make demo` shows it, `make test` proves it. Everything lives in .venv; nothing is installed system-wide
# but, as root on Debian, the few tools in PACKAGES, and those only where they are missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# How many test workers; the kernel tests live in namespaces of their own and may run side by side.
WORKERS ?= 2
PYTEST ?= -n $(WORKERS) --dist loadfile

# What runs in a guest; by default a shell.
COMMAND ?=

.PHONY: help venv system system-guest demo test guest check format bench bench-iptables bench-ipvs bench-relay lock clean

help: ## say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16

venv: $(STAMP) ## the Python environment, exactly as locked

$(STAMP): requirements-dev.txt
	@tools/venv.sh $(VENV)
	@touch $(STAMP)

system: ## nft, conntrack, ip and friends: installed as root on Debian if missing
	@tools/system.sh

system-guest: ## the same, and what a User-mode Linux guest needs, if it can be had
	@tools/system.sh guest

demo: venv system ## a node, pods and a client in namespaces; real requests; cleans up
	@$(BIN)/kubeway demo

test: venv system-guest ## every test; those that speak to a kernel need root and are skipped without
	@$(BIN)/python -m pytest $(PYTEST)

guest: venv system-guest ## a shell, or COMMAND=…, in a User-mode Linux guest, where there is ip_vs
	@$(BIN)/python -m tests.guest.boot -- $(COMMAND)

check: venv ## style, types, floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## put the source into house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: venv system ## numbers: compile, plan, write
	$(BIN)/python bench/run.py

bench-iptables: venv system ## numbers of iptables mode; up to ten minutes, as iptables-nft-restore is part of them
	$(BIN)/python bench/iptables.py

bench-ipvs: venv system-guest ## numbers of ipvs mode, in a User-mode Linux guest; some two minutes
	$(BIN)/python bench/ipvs.py

bench-relay: venv system ## numbers of userspace mode's relay, beside HAProxy; some minutes; needs haproxy, wrk and iperf3
	$(BIN)/python -m bench.relay
	$(BIN)/python -m bench.relay_udp
	$(BIN)/python -m bench.relay_workers
	$(BIN)/python -m bench.steering

lock: venv ## resolve the lock files anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --python-platform linux -q -o requirements.txt
	uv pip compile pyproject.toml --extra dev -c requirements.txt --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --python-platform linux -q -o requirements-dev.txt

clean: ## take away what was made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
