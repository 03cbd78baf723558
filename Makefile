# make demo: classify the sample images on a real Triton.
# make test: run the unit tests and the tests against a server, in 8 to 10 minutes on 2 cores.
# make test-unit: run the tests that start no process, in less than a minute.
# make test-system: run the tests of faults, hostile input, containers, Spark and other languages.
# make test-all: run every test, with those marked slow.
# make coverage: measure the line and branch coverage of make test.
# make serve: serve CHECKPOINT until Ctrl-C.
# make up: serve CHECKPOINT with the REST gateway and its web page at port 8080, until Ctrl-C.
# make gateway: run the gateway alone, in front of make serve.
# make check: check format, lint and types.   make format: fix what make check finds in style.
# make faults: break and attack servers in many ways, and check that honest callers lose nothing.
# make fuzz: send hostile inputs to a server.
# make loadtest: load a server with many callers for a minute; see loadtest/README.md.
# make soak MINUTES=20: load a server for a long time, and check that no process grows.
# make images: build the images of docker/ without Docker, on Debian as root.
# make benchmark: compare the system with others, in about 25 minutes.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.10 python3; do \
	command -v $$python >/dev/null && $$python -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
	2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
CHECKPOINT ?= scripts/demo/checkpoint
REPOSITORY ?= build/repositories/$(subst /,--,$(CHECKPOINT))
EXAMPLES ?= 15000
# Duration of a soak.
MINUTES ?= 20
# Thresholds and other options of loadtest/run.py.
LOADTEST ?= --max-p99-ms 2000 --min-rate 1
MODELS := admission image_preprocess vision_encoder text_encoder similarity

.PHONY: install demo serve up gateway test test-unit test-system test-all coverage fuzz faults loadtest soak images benchmark check format clean
# What each group of goals installs. dev contains the others.
INSTALL_server := --editable . --editable 'client[gateway]'
INSTALL_loadtest := $(INSTALL_server) --group loadtest
INSTALL_benchmark := --editable '.[benchmark]' --editable 'client[gateway]'
INSTALL_dev := --group dev --editable '.[evaluate,onnx,benchmark]' --editable 'client[gateway]'
SERVER := $(VENV)/.installed-server
DEV := $(VENV)/.installed-dev

install: $(DEV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 with venv found; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt client/pyproject.toml | $(BIN)/python
	scripts/install.sh $(VENV) --constraint constraints.txt $(INSTALL_$*)
	@touch $@

$(DEV): pyproject.toml constraints.txt client/pyproject.toml | $(BIN)/python
	scripts/install.sh $(VENV) --constraint constraints.txt $(INSTALL_dev)
	scripts/install.sh $(VENV) --constraint constraints.txt --no-deps --upgrade --target $(VENV)/torchvision torchvision
	@touch $(VENV)/.installed-server $(VENV)/.installed-loadtest $(VENV)/.installed-benchmark $@

demo: $(SERVER)
	@$(BIN)/python scripts/demo/run.py $(REPOSITORY) --checkpoint $(CHECKPOINT)

serve: $(SERVER)
	@exec $(BIN)/tritonclip-server serve $(CHECKPOINT) --repository $(REPOSITORY)

# GATEWAY="--keys-file keys" make up: pass options to `tritonclip gateway`.
up: $(SERVER)
	@exec $(BIN)/tritonclip-server serve $(CHECKPOINT) --repository $(REPOSITORY) --gateway --gateway-options "$(GATEWAY)"

gateway: $(SERVER)
	@exec $(BIN)/tritonclip gateway --url localhost:8001 $(GATEWAY)

# PYTEST="-p randomly" make test: shuffle the tests.
test: test-unit
	$(BIN)/python -m pytest tests/server -m "not slow" $(PYTEST)

test-unit: install
	$(BIN)/python -m pytest tests/unit -n logical --maxprocesses 4 --dist loadfile $(PYTEST)

test-system: install
	$(BIN)/python -m pytest tests/system -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-all: install
	@missing=$$(tests/missing_packages.sh --slow) && test -z "$$missing" || \
		echo "tests of these Debian packages will be skipped; to run them: apt-get install" $$missing
	$(BIN)/python -m pytest $(PYTEST)

coverage: install
	rm -rf build/coverage
	-$(BIN)/coverage run -m pytest tests/unit tests/server -m "not slow" $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --sort cover
	for part in client/src scripts/tritonclip_server model_repository; do \
		echo "$$part: $$($(BIN)/coverage report --include "$$part/*" --format total) %"; done

# EXAMPLES=30000 FUZZ_SEED=1 make fuzz: send 30,000 inputs, generated from seed 1.
fuzz: install
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/system/fuzz -m slow -rP

faults: install
	$(BIN)/python -m pytest tests/system/faults tests/system/attacks -rP

loadtest: $(VENV)/.installed-loadtest
	@$(BIN)/tritonclip-server prepare $(CHECKPOINT) --output $(REPOSITORY) --force --set vision_encoder.compile=off
	@$(BIN)/python loadtest/run.py --repository $(REPOSITORY) $(LOADTEST)

soak: $(VENV)/.installed-loadtest
	@$(BIN)/python loadtest/soak.py --minutes $(MINUTES)

images: install
	$(BIN)/python docker/build_images.py

benchmark: $(VENV)/.installed-benchmark
	$(BIN)/tritonclip-server benchmark serving

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict client/src
	$(BIN)/mypy scripts/*.py scripts/tritonclip_server
	$(BIN)/mypy scripts/demo
	$(BIN)/mypy loadtest
	$(BIN)/mypy docker
	for model in $(MODELS); do \
		MYPYPATH=model_repository $(BIN)/mypy model_repository/$$model/1/*.py || exit 1; done

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build
