# make demo: classify the sample images on a real Triton.   make test: run all tests but the slow ones.
# make serve: serve until Ctrl-C.   make gateway: REST and a web page in front of it, at port 8080.
# make check: format, lint, types.   make format: mend what check finds in style.
# make faults: break servers in every way, and see them recover.
# make loadtest: load a server with many callers, in a minute; see loadtest/README.md.
# make soak MINUTES=20: load a server for a while, and see that nothing in it grows.
# make images: build the images of docker/ without Docker, on Debian as root.
# make benchmark: measure the system against others, in about 20 minutes.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.10 python3; do \
	command -v $$python >/dev/null && $$python -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
	2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
CHECKPOINT ?= scripts/demo/checkpoint
REPOSITORY ?= build/repositories/$(subst /,--,$(CHECKPOINT))
EXAMPLES ?= 15000
INSTALLED := $(VENV)/.installed
# How long a soak lasts.
MINUTES ?= 20
# Thresholds and further options of loadtest/run.py.
LOADTEST ?= --max-p99-ms 2000 --min-rate 1
MODELS := admission image_preprocess vision_encoder text_encoder similarity

.PHONY: install demo serve gateway test fuzz faults loadtest soak images benchmark check format clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt client/pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 with venv found; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev \
		--editable '.[evaluate,onnx,benchmark]' --editable 'client[gateway]'
	@touch $@

demo: install
	@$(BIN)/python scripts/prepare_weights.py $(CHECKPOINT) --output $(REPOSITORY) --force --set vision_encoder.compile=off
	@$(BIN)/python scripts/demo/run.py $(REPOSITORY)

serve: install
	@$(BIN)/python scripts/prepare_weights.py $(CHECKPOINT) --output $(REPOSITORY) --force
	@exec $(BIN)/python scripts/serve.py $(REPOSITORY)

# GATEWAY="--keys-file keys" make gateway: with options of `tritonclip gateway`.
gateway: install
	@exec $(BIN)/tritonclip gateway --url localhost:8001 $(GATEWAY)

test: install
	$(BIN)/python -m pytest -m "not slow"

# EXAMPLES=30000 FUZZ_SEED=1 make fuzz: so many inputs, those of that seed.
fuzz: install
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/system/fuzz -m slow -rP

faults: install
	$(BIN)/python -m pytest tests/system/faults

loadtest: install
	@$(BIN)/python scripts/prepare_weights.py $(CHECKPOINT) --output $(REPOSITORY) --force --set vision_encoder.compile=off
	@$(BIN)/python loadtest/run.py --repository $(REPOSITORY) $(LOADTEST)

soak: install
	@$(BIN)/python loadtest/soak.py --minutes $(MINUTES)

images: install
	$(BIN)/python docker/build_images.py

benchmark: install
	$(BIN)/python scripts/benchmark.py

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
