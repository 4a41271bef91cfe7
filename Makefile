# Each command makes what it needs: a virtual environment in .venv, filled by uv.
PY := .venv/bin/python
TESTS := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal
export PYTHONWARNINGS := ignore::FutureWarning

.PHONY: train test test-library check-docs coverage test-slow test-docs bench release-check docs clean
train: .venv/.base
	.venv/bin/fastmix-train $(ARGS)

# two notebooks and two tests at a time, one thread each: two threads each would wait for one another
test: .venv/.dev
	$(MAKE) -j2 test-library check-docs

check-docs: .venv/.dev
	$(PY) .ci/docs.py --check

test-library: .venv/.dev
	$(PY) .ci/in_step.py
	$(PY) .ci/house.py
	OMP_NUM_THREADS=1 .venv/bin/nbdev-test nbs --n-workers 2
	$(TESTS)

# the same tests, and which lines of fastmix/ they reach; apart, as this takes a quarter longer
coverage: .venv/.dev
	$(TESTS) --cov=fastmix --cov-report=term

test-slow: .venv/.dev
	$(PY) -m pytest -m slow

# to benchmarks/results/; NAMES="epochs start" measures these alone. Nothing else should run
bench: .venv/.dev
	$(PY) -m benchmarks $(NAMES)

# docs/ in a real browser: Debian's chromium, which `make test` uses where it is installed
test-docs: .venv/.dev
	command -v chromium || command -v google-chrome || \
		(apt-get update -q && apt-get install -qy chromium)
	BROWSER_TESTS=1 $(PY) -m pytest tests/test_site.py

# what would be published: built, checked, and installed into an environment with nothing else
release-check: .venv/.dev
	rm -rf build dist
	$(PY) -m build -q
	$(PY) -m twine check --strict dist/*
	python3 -m venv --clear build/bare
	.venv/bin/uv pip install -q --python build/bare/bin/python dist/*.whl
	cd build && bare/bin/python -c 'import fastmix.all' && bare/bin/fastmix-train --help >/dev/null
	cd build && bare/bin/fastmix-paper --help >/dev/null

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
