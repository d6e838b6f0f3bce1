# From nothing: `make train`, `make train-instances` and `make test`. Each makes the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Set by CI and slow connections at will; pip's cache is used as it is.
PIP_FLAGS ?= -q

.PHONY: train train-instances test soak lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[all,test]'
	touch $@

train: $(VENV)/installed
	$(BIN)/dist-seg pack synthetic data/synthetic
	$(BIN)/dist-seg train configs/synthetic.yaml --nproc 2

train-instances: $(VENV)/installed
	$(BIN)/dist-seg pack synthetic data/synthetic_instances --task instance
	$(BIN)/dist-seg train configs/synthetic_instances.yaml --nproc 2

# Whole files to a core, so that what their tests share is made once; long ones first, so that none waits at the end.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		tests/integration tests/distributed tests/gpu tests/unit

soak: $(VENV)/installed
	$(BIN)/python -m pytest tests -m soak

lint: $(VENV)/installed
	$(BIN)/ruff check dist_seg tests benchmarks
	$(BIN)/ruff format --check dist_seg tests benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(VENV) data runs
