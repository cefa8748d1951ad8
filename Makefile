# make demo    compress the sample networks, then compare, score and time all forms
# make test    run the tests
# make lint    ruff and mypy
# Everything is installed into VENV and written to out/; nothing outside the folder is touched.

VENV ?= .venv
PYTHON ?= python3
OUT := out
MODEL := samples/models/resnet20_cifar10.onnx
SMALL := $(OUT)/resnet20_penni.onnx
TRAINED := samples/models/resnet20_cifar10_pairs.onnx
FAST := $(OUT)/resnet20_escalate.onnx
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: venv demo test lint bench clean
.DELETE_ON_ERROR:

venv: $(INSTALLED)

# Editable, so that commands run the code of this checkout.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) must be Python 3.11 or later with venv (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e ".[samples,test,torch]"
	@touch $@

$(OUT)/calib.npz: $(INSTALLED) samples/make_data.py $(wildcard samples/data/*)
	$(BIN)/python samples/make_data.py --out $(OUT)
	@touch $@

$(SMALL): $(INSTALLED) $(OUT)/calib.npz $(MODEL)
	$(BIN)/optc transform $(MODEL) --pass penni:params=0.3 --calib $(OUT)/calib.npz \
	  --optimize-for latency -o $@ --report $(OUT)/report

$(FAST): $(INSTALLED) $(OUT)/calib.npz $(TRAINED)
	$(BIN)/optc transform $(TRAINED) --pass escalate --calib $(OUT)/calib.npz \
	  --optimize-for latency -o $@ --report $(OUT)/report_escalate

demo: $(SMALL) $(FAST)
	$(BIN)/python -m samples.demo $(MODEL) $(SMALL) $(FAST) \
	  --data $(OUT)/eval.npz --calib $(OUT)/calib.npz

bench: $(SMALL) $(FAST)
	$(BIN)/optc bench $(MODEL) $(SMALL) $(FAST)

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard samples/*.py samples/*/*.py)

clean:
	rm -rf $(OUT) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
