# Each command makes what it needs: a virtual environment in .venv, filled by uv.
PY := .venv/bin/python
export PYTHONWARNINGS := ignore::FutureWarning

.PHONY: train test test-slow docs clean
train: .venv/.base
	.venv/bin/fastmix-train $(ARGS)

# two notebooks at a time, one thread each: two threads each would wait for one another
test: .venv/.dev
	$(PY) .ci/in_step.py
	OMP_NUM_THREADS=1 .venv/bin/nbdev-test nbs --n-workers 2
	$(PY) -m pytest
	$(PY) .ci/docs.py --check

test-slow: .venv/.dev
	$(PY) -m pytest -m slow

docs: .venv/.dev
	.venv/bin/nbdev-export
	$(PY) .ci/docs.py

.venv/bin/uv:
	python3 -m venv .venv
	.venv/bin/pip install -q uv

.venv/.base: .venv/bin/uv settings.ini setup.py
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/uv pip install -q -e .
	touch $@

.venv/.dev: .venv/bin/uv settings.ini setup.py
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/uv pip install -q -e '.[dev]'
	touch .venv/.base $@

clean:
	rm -rf .venv build dist *.egg-info _proc
