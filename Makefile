# Needs Python 3.11 or newer (with venv), a C compiler and make; everything else goes into $(VENV), in
# the versions that constraints.txt pins. `make lock` writes that file.
#
# There are three sets of packages, each one stamp file in $(VENV): `demo` (to train on NetHack),
# `test`, and `bench` or `dev` on top of it. A set is installed again when pyproject.toml, the pins
# or a source changes; the compiled objects stay in $(VENV)/build, so that only what changed is
# compiled.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
BIN := $(VENV)/bin
ENV := PATH=$(abspath $(BIN)):$$PATH
INSTALL := python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PIP := $(ENV) PIP_BUILD_CONSTRAINT=$(abspath constraints.txt) $(INSTALL)
SHOAL := $(ENV) $(INSTALL) --no-build-isolation --config-settings=build-dir=$(VENV)/build
# nle 1.3.0 asks for gymnasium 1.2.0 although it runs on 1.4.0, and pip would fall back to nle 0.9.1.
# So nle is installed without its dependencies, which are all there before.
NLE := $(PIP) --no-deps nle==1.3.0
# The browser that tests pages; without it, those tests are skipped.
CHROMIUM := if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null || echo "no chromium: pages are not tested"; fi
# Each process runs its share of the tests; one that is done takes from the others.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
export NO_MKDOCS_2_WARNING := 1
SOURCES := pyproject.toml meson.build \
	$(shell find src -type f ! -name '*.so' ! -name '*.pyc' ! -name '.*')

.DELETE_ON_ERROR:
.PHONY: demo test test-all sanitize bench gpu lint docs site wheel lock clean

demo: $(VENV)/.demo ## NetHack: two minutes of training, then what it scores
	run=nethack-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/shoal train --config examples/nethack.toml --name $$run && \
	$(BIN)/shoal eval $$run --episodes 50 && \
	echo "the learning curve: runs/$$run/curve.png; to watch it: $(BIN)/shoal eval $$run --render"

test: $(VENV)/.test ## all but the slow tests
	$(PYTEST)

test-all: $(VENV)/.test sanitize ## every test, and the compiled code under sanitizers
	$(PYTEST) -m ""

bench: $(VENV)/.bench ## every benchmark but those of training, which take hours
	set -e; for file in $(filter-out benchmarks/_% benchmarks/%training.py benchmarks/catalogue.py benchmarks/gpu.py benchmarks/trained.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$file"; $(BIN)/python $$file; done

# With the Python and the packages of the machine, which may have no network.
gpu: ## what only a GPU can show, in at most 8 minutes; into benchmarks/results/gpu.md
	$(PYTHON) benchmarks/gpu.py

lint: $(VENV)/.dev ## style, types, layering, and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	find src tests benchmarks \( -name '*.c' -o -name '*.h' \) -exec $(BIN)/clang-format --dry-run -Werror {} +
	$(BIN)/python -m pytest -q tests/test_structure.py
	$(BIN)/mkdocs build --quiet --strict

docs: $(VENV)/.dev ## the documentation, into site/
	$(BIN)/mkdocs build --strict

site: docs ## the documentation with a live demo of every environment in C, into site/
	$(BIN)/python docs/gallery.py site/demos

wheel: $(VENV)/.test ## an sdist and, from it, a wheel; into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# All versions for Linux and macOS, Python 3.11 and newer; with UPGRADE=--upgrade, the newest ones.
lock: $(VENV)/.dev ## the pins, constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate $(UPGRADE) \
		--custom-compile-command "make lock" \
		$(addprefix --group ,build test bench dev docs) --extra train --output-file constraints.txt pyproject.toml

clean: ## back to a fresh clone
	rm -rf $(VENV) .venv-others build dist site .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The compiled modules are built with AddressSanitizer and UndefinedBehaviorSanitizer into a folder
# that goes before the installed package. The Python executable knows nothing of them, so the
# runtime is loaded first, and with it libstdc++, since environments in C++ throw exceptions.
# Python's objects come from malloc, which the sanitizer watches. Leaks are not looked for: the
# interpreter itself never frees everything. Reports go past pytest's capture. Atari's window is
# left out: it looks for its SDL beside itself, which dlopen through the sanitizer doesn't find.
SANITIZED := $(CURDIR)/build/sanitized
LIBRARY = $$($${CC:-cc} -print-file-name=$(1))
sanitize: $(VENV)/.test
	rm -rf build/sanitize $(SANITIZED)
	$(ENV) meson setup build/sanitize -Dbuildtype=debugoptimized -Db_ndebug=false \
		-Db_sanitize=address,undefined -Db_lundef=false \
		-Dpython.platlibdir=$(SANITIZED) -Dpython.purelibdir=$(SANITIZED)
	$(ENV) meson install --quiet -C build/sanitize
	LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libstdc++.so.6)" \
		PYTHONPATH=$(SANITIZED) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		$(BIN)/python -m pytest --capture=sys tests/rows tests/emulation tests/vectorization/test_info*.py \
		--deselect 'tests/emulation/test_single.py::test_gymnasiums_checker_passes[ALE/Pong-v5]'

$(VENV)/.tools: constraints.txt pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --group build
	touch $@

$(VENV)/.demo: $(SOURCES) $(VENV)/.tools
	$(SHOAL) '.[train]'
	$(NLE)
	touch $@

$(VENV)/.test: $(SOURCES) $(VENV)/.tools
	$(PIP) --group test
	$(SHOAL) .
	$(NLE)
	command -v chromium >/dev/null || $(CHROMIUM)
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) --group bench
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) --group dev --group docs
	touch $@
