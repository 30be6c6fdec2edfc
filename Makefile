# `make run` is all one needs: each target first makes what it stands on. Every command is given paths relative to this
# folder, or quoted ones: the folder's own name may have spaces.

PYTHON ?= python3
TORCH  ?=
export PYTHON TORCH

BIN   := .venv/bin
UV    := PATH="$$PATH:$$PWD/$(BIN)" uv
TESTS := PATH="$$PWD/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest

# A local SuperLink re-installs an app's dependencies at each run unless told not to, and its workers put
# the folder it was started in before the app: so it is started with this setting, in an empty folder.
FLWR = mkdir -p .superlink && cd .superlink && PATH="$${PWD%/*}/$(BIN):$$PATH" \
       FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 flwr
NODES ?= 2
SIMULATED = --federation-config "num-supernodes=$(NODES) client-resources-num-cpus=1"

.PHONY: help setup setup-dev run smoke scalefl probe export split-report certificates test-fast test test-deploy \
        lint docs lock stop clean

help:  ## the targets, a line each
	@sed -n 's/^\([a-z-]*\):[^#]*##  *\(.*\)/\1\t\2/p' Makefile | expand -t 14

setup:  ## make or renew the environment `.venv`; `make setup TORCH=cpu`: with a torch that has no CUDA in it
	@sh setup.sh requirements.lock

setup-dev:  ## the same with what tests, ruff and mypy need
	@sh setup.sh requirements-dev.lock

run: setup  ## SCARLET on digits, with Flower's default of two simulated nodes, or `make run NODES=10`
	$(FLWR) run .. --stream $(SIMULATED)

smoke: setup  ## the shortest run that shows everything
	$(FLWR) run .. --stream $(SIMULATED) --run-config ../recipes/smoke.toml

scalefl: setup  ## ScaleFL on digits with eight simulated nodes, two at each of four levels
	$(FLWR) run .. --stream --federation-config "num-supernodes=8 client-resources-num-cpus=1" \
	  --run-config ../recipes/scalefl-digits.toml

RECIPE ?= recipes/scalefl-digits.toml
NODE ?= partition-id=0 num-partitions=8
probe: setup  ## which level this machine would carry, and why: `make probe NODE="…" RECIPE=…`
	$(BIN)/python -m client_app.probe "$(RECIPE)" --node-config "$(NODE)"

FORMAT ?= safetensors
export: setup  ## a level's submodel as a file: `make export RUN=~/motley/runs/… LEVEL=1 OUTPUT=level1.safetensors`
	$(BIN)/python -m server_app.export "$(RUN)" --level $(LEVEL) --output "$(OUTPUT)" --format $(FORMAT)

CLIENTS ?= 10
PICTURE ?= split.png
split-report: setup  ## who gets what: `make split-report RECIPE=… CLIENTS=10 PICTURE=split.png`
	$(BIN)/python -m data.split_report "$(RECIPE)" --clients $(CLIENTS) --picture "$(PICTURE)"

CERTIFICATES ?= certificates
NAMES ?= superlink,localhost,127.0.0.1
SITES ?= hospital-a,hospital-b
certificates: setup  ## a CA, the SuperLink's certificate, a key for each site: `make certificates NAMES=… SITES=…`
	$(BIN)/python -m deploy.certificates create "$(CERTIFICATES)" --server-names "$(NAMES)" --nodes "$(SITES)"

test-fast: setup-dev  ## the tests that need no process and no federation, in less than a minute
	$(TESTS) -n 2 --dist loadfile -m "not deploy and not slow" --durations 5 --durations-min 1 \
	  --ignore tests/federation --ignore tests/processes --ignore tests/faults

# In the order of the folders: by itself xdist begins with the files of most tests, and those of whole processes,
# which have one or two tests that take a minute, would come last, one after another, on one core.
test: setup-dev  ## all tests but those of test-deploy
	$(TESTS) -n 2 --dist loadfile --no-loadscope-reorder -m "not deploy"

# Wants root and Debian's podman runc netavark aardvark-dns catatonit iptables iproute2 debootstrap ca-certificates;
# what lacks is named by the tests that are skipped. It takes half an hour, too long for every change.
test-deploy: setup-dev  ## faults in network namespaces, the image
	$(TESTS) -m deploy

lint: setup-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup-dev  ## write the README's table of settings
	$(BIN)/python -m docs.settings_table

PIN = $(UV) pip compile pyproject.toml --python-version 3.11 --universal --upgrade --quiet \
      --no-emit-index-url --no-annotate --no-header
lock:  ## pin the newest versions that fit pyproject.toml, users' and developers': names and versions, no addresses
	$(PIN) --group dev --output-file requirements-dev.lock
	$(PIN) --constraint requirements-dev.lock --output-file requirements.lock

stop:  ## end the local SuperLink that `flwr run` leaves running
	@pids=$$(pgrep -f "flower-superlink .*--port $${FLWR_LOCAL_SUPERLINK_HTTP_API_PORT:-39091}") || [ $$? -eq 1 ] || exit 1; \
	  if [ -n "$$pids" ]; then kill $$pids && echo stopped $$pids; else echo "no local SuperLink is running"; fi

clean:  ## remove the environment, unless it is a link of yours, and what tools have left
	@sh setup.sh clean
	rm -rf .superlink .pytest_cache .mypy_cache .ruff_cache .hypothesis
