# Two commands do everything on a fresh clone: `make quickstart` and `make test`. `make tiny` makes the embedded model again.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
OUT ?= quickstart
DEVICES ?= 2
ABOUT := The small model that travels with DICEPTION, for tests, the quick start and first tries at 128 pixels. It knows \
rendered scenes of boxes, spheres, cylinders and capsule people, and flat pictures in the manner of microscopes. It cannot \
read photographs; as a start for learning from 50 images of microscopy it is of use.

.PHONY: install quickstart test test-slow tiny format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/diception quickstart --out $(OUT)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not slow and not gpu'

test-slow: install
	$(BIN)/pytest -m 'slow and not gpu'

# From nothing to runs/tiny-shipped: scenes, autoencoder, two trainings, scores, export. Goes on where it was stopped.
# TRAIN and FIT are more options of the trainings and of the autoencoder's.
tiny: install
	set -e; for one in 1:20000 2:14000 3:10000; do domain=$${one%:*}; \
	$(BIN)/diception shards synthetic --count $${one#*:} --size 128 --domain $$domain --seed 0 --out shards/domain$$domain; \
	$(BIN)/diception shards synthetic --count 200 --size 128 --domain $$domain --seed 2000000 --out shards/domain$$domain-val; done
	$(BIN)/diception train-autoencoder tiny/autoencoder $(FIT)
	set -e; for name in multitask all_domains; do $(BIN)/diception train tiny/$$name devices=$(DEVICES) $(TRAIN); done
	$(BIN)/diception evaluate --model runs/tiny-all/model --steps 1 4 28 --guidance-scale 1 --out runs/tiny-all/easy.json
	$(BIN)/diception evaluate --model runs/tiny-all/model --domain 2 --steps 1 --guidance-scale 1 --out runs/tiny-all/hard.json
	$(BIN)/diception evaluate --model runs/tiny-all/model --domain 3 --steps 1 --guidance-scale 1 --out runs/tiny-all/flat.json
	rm -rf runs/tiny-shipped
	$(BIN)/diception export runs/tiny-all --dtype bfloat16 --autoencoder-dtype float16 --steps 1 --guidance-scale 1 \
	  --about "$(ABOUT)" --scores $(addprefix runs/tiny-all/,easy.json hard.json flat.json) --out runs/tiny-shipped

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
