# `make run` is all one needs; every target makes what it stands on.

VENV    := .venv
BIN     := $(CURDIR)/$(VENV)/bin
PYTHON  ?= python3
STAMP   := $(VENV)/.ready

# A local SuperLink re-installs an app's dependencies at each run unless told not to, and its workers put
# the folder it was started in before the app: so it is started with this setting, in an empty folder.
FLWR = mkdir -p $(CURDIR)/$(VENV)/empty && cd $(CURDIR)/$(VENV)/empty && PATH="$(BIN):$$PATH" \
       FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 flwr
NODES ?= 2
SIMULATED = --federation-config "num-supernodes=$(NODES) client-resources-num-cpus=1"

.PHONY: setup run smoke scalefl probe export split-report certificates test test-deploy lint docs lock stop clean

setup: $(STAMP)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@if command -v uv >/dev/null; then uv venv --quiet --clear --python $(PYTHON) $(VENV); \
	  else $(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install --quiet uv; fi
	@PATH="$(BIN):$$PATH" uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	@touch $@

run: $(STAMP)  ## SCARLET on digits, with Flower's default of two simulated nodes, or `make run NODES=10`
	$(FLWR) run $(CURDIR) --stream $(SIMULATED)

smoke: $(STAMP)  ## the shortest run that shows everything
	$(FLWR) run $(CURDIR) --stream $(SIMULATED) --run-config $(CURDIR)/recipes/smoke.toml

scalefl: $(STAMP)  ## ScaleFL on digits with eight simulated nodes, two at each of four levels
	$(FLWR) run $(CURDIR) --stream --federation-config "num-supernodes=8 client-resources-num-cpus=1" \
	  --run-config $(CURDIR)/recipes/scalefl-digits.toml

RECIPE ?= recipes/scalefl-digits.toml
NODE ?= partition-id=0 num-partitions=8
probe: $(STAMP)  ## which level this machine would carry, and why: `make probe NODE="…" RECIPE=…`
	$(BIN)/python -m client_app.probe $(RECIPE) --node-config "$(NODE)"

FORMAT ?= safetensors
export: $(STAMP)  ## a level's submodel as a file: `make export RUN=~/motley/runs/… LEVEL=1 OUTPUT=level1.safetensors`
	$(BIN)/python -m server_app.export $(RUN) --level $(LEVEL) --output $(OUTPUT) --format $(FORMAT)

CLIENTS ?= 10
PICTURE ?= split.png
split-report: $(STAMP)  ## who gets what: `make split-report RECIPE=… CLIENTS=10 PICTURE=split.png`
	$(BIN)/python -m data.split_report $(RECIPE) --clients $(CLIENTS) --picture $(PICTURE)

test: $(STAMP)
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not deploy"

# Wants root and Debian's podman runc netavark aardvark-dns catatonit iptables iproute2 debootstrap ca-certificates;
# what lacks is named by the tests that are skipped. It takes half an hour, too long for every change.
test-deploy: $(STAMP)  ## faults in network namespaces, the image
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest -m deploy

CERTIFICATES ?= certificates
NAMES ?= superlink,localhost,127.0.0.1
SITES ?= hospital-a,hospital-b
certificates: $(STAMP)  ## a CA, the SuperLink's certificate, a key for each site: `make certificates NAMES=… SITES=…`
	$(BIN)/python -m deploy.certificates create $(CERTIFICATES) --server-names $(NAMES) --nodes $(SITES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## write the README's table of settings
	$(BIN)/python -m docs.settings_table

lock:  ## pin the newest versions that fit pyproject.toml: names and versions, no addresses
	uv pip compile pyproject.toml --group dev --python-version 3.11 --universal \
	  --no-emit-index-url --no-annotate --no-header --upgrade --output-file requirements.lock

stop: $(STAMP)  ## end the local SuperLink that `flwr run` leaves running
	@pids=$$(pgrep -f "flower-superlink .*--port $${FLWR_LOCAL_SUPERLINK_HTTP_API_PORT:-39091}" || true); \
	  if [ -n "$$pids" ]; then kill $$pids && echo "stopped $$pids"; else echo "no local SuperLink is running"; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
