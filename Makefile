# Two commands do everything on a fresh clone: `make quickstart` and `make test`. `make tiny` makes the embedded model again.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
OUT ?= quickstart
DEVICES ?= 2
SCENES := $(BIN)/diception shards synthetic --size 128
ABOUT := The small model that travels with DICEPTION, for tests, the quick start and first tries at 128 pixels. It knows \
rendered scenes of boxes, spheres, cylinders and capsule people, and flat pictures in the manner of microscopes. It cannot \
read photographs; as a start for learning from 50 images of microscopy it is of use.

STORED := --dtype bfloat16 --autoencoder-dtype float16 --steps 1 --guidance-scale 1

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

# Of one domain: scenes of the first five trainings, those of the sixth, and those of the validations.
define scenes
	$(SCENES) --domain $(1) --count $(2) --seed 0 --out shards/domain$(1)
	$(SCENES) --domain $(1) --count $(3) --seed 1 --out shards/domain$(1)-more
	$(SCENES) --domain $(1) --count 200 --seed 2000000 --out shards/domain$(1)-val
endef

# From nothing to runs/tiny-shipped: scenes, autoencoder, six trainings, export, scores of what is stored, its card.
# Goes on where it was stopped. TRAIN and FIT are more options of the trainings and of the autoencoder's.
tiny: install
	$(call scenes,1,20000,20000)
	$(call scenes,2,14000,26000)
	$(call scenes,3,10000,10000)
	$(BIN)/diception train-autoencoder tiny/autoencoder $(FIT)
	set -e; for name in multitask all_domains stage3 stage4 stage5 stage6; do \
	$(BIN)/diception train tiny/$$name devices=$(DEVICES) $(TRAIN); done
	rm -rf runs/tiny-rounded runs/tiny-shipped
	$(BIN)/diception export runs/tiny-stage6 $(STORED) --out runs/tiny-rounded
	$(BIN)/diception evaluate --model runs/tiny-rounded --steps 1 4 28 --out runs/tiny-stage6/easy.json
	$(BIN)/diception evaluate --model runs/tiny-rounded --domain 2 --out runs/tiny-stage6/hard.json
	$(BIN)/diception evaluate --model runs/tiny-rounded --domain 3 --out runs/tiny-stage6/flat.json
	$(BIN)/diception export runs/tiny-rounded $(STORED) --about "$(ABOUT)" \
	  --scores $(addprefix runs/tiny-stage6/,easy.json hard.json flat.json) --out runs/tiny-shipped

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
