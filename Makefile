# Every job of a checkout. Each target sets up what it needs; "make help" lists them.
#
#   make test PYTHON=python3.12         another interpreter (which gets a new environment)
#   make test PYTEST_ARGS="-k pth -x"   arguments for pytest
#   make test PYTEST_WORKERS=0          in one process, as for a debugger
#   make test VENV=/tmp/env             another place for the environment

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
#: Interpreters of "make test-pythons".
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
VENV ?= .venv
ORACLE_VENV ?= .venv-oracle
CLIENTS_VENV ?= .venv-clients
MINIMUM_VENV ?= .venv-minimum
FUZZ_VENV ?= .venv-fuzz
RAY_VENV ?= .venv-ray
WHEELS_VENV ?= .venv-wheels
FREE_VENV ?= .venv-free
#: A Python without a GIL, for "make test-free". With PYTHONSAFEPATH, the processes that tests start do not import the
#: checkout's own build.
FREE_PYTHON ?= python3.14t
#: "make wheels" builds those of the platforms whose tag contains this: all of them by default.
WHEELS ?=
PYTEST_ARGS ?=
#: Processes that share the tests.
PYTEST_WORKERS ?= auto
#: Damaged files per target of "make fuzz-mutations", and executions per target of "make fuzz-guided".
FUZZ_EXAMPLES ?= 20000
FUZZ_RUNS ?= 1000000
#: Arguments of tools/fuzz.py.
FUZZ_ARGS ?=
#: A bochs of release 3.0 or later, for "make test-amx".
export BOCHS
#: A clang with libFuzzer.
CLANG ?= clang
#: Measurements of "make bench".
BENCHMARKS ?= $(basename $(notdir $(wildcard benchmarks/bench_*.py)))

BIN := $(VENV)/bin
ORACLE_BIN := $(ORACLE_VENV)/bin
CLIENTS_BIN := $(CLIENTS_VENV)/bin
MINIMUM_BIN := $(MINIMUM_VENV)/bin
FUZZ_BIN := $(FUZZ_VENV)/bin
RAY_BIN := $(RAY_VENV)/bin
#: The tests of a file run in one process.
WORKERS := --numprocesses $(PYTEST_WORKERS) --dist loadfile
#: Prints errors only; modules are byte-compiled on first import.
PIP_INSTALL := pip --disable-pip-version-check install --quiet --quiet --no-compile
#: Flags for compiling the C kernels without setup.py.
KERNEL_FLAGS := -std=gnu11 -fno-math-errno -fno-trapping-math -ffp-contract=off -Irwkv_cy/kernels/csrc
KERNEL_SOURCES := $(shell find rwkv_cy/kernels/csrc -name "*.c")
#: The test of the kernel families, with families for other CPUs on instructions in plain C.
FAMILIES_TEST := -DRK_MODELS -Wno-psabi -pthread -I$(CURDIR)/tests/c tests/c/families.c tests/c/model/int8.c tests/c/model/bf16.c \
	tests/c/model/quantized.c
ABSOLUTE_FLAGS := $(subst -Irwkv_cy,-I$(CURDIR)/rwkv_cy,$(KERNEL_FLAGS))
SANITIZED_FLAGS := $(ABSOLUTE_FLAGS) -O1 -g -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
ARM_CC ?= aarch64-linux-gnu-gcc
ARM_RUN ?= qemu-aarch64
DEMO_MODEL := build/demo-model.h5
DEMO_PROMPT := In the beginning

# The stamps contain the interpreter's version, so that another PYTHON does not reuse the old environment.
PYTHON_ID := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)
MADE := $(VENV)/.made-$(PYTHON_ID)
BUILT := $(VENV)/.built
ORACLE_MADE := $(ORACLE_VENV)/.made-$(PYTHON_ID)
ORACLE_BUILT := $(ORACLE_VENV)/.built
CLIENTS_MADE := $(CLIENTS_VENV)/.made-$(PYTHON_ID)
CLIENTS_BUILT := $(CLIENTS_VENV)/.built
MINIMUM_MADE := $(MINIMUM_VENV)/.made-$(PYTHON_ID)
FUZZ_MADE := $(FUZZ_VENV)/.made-$(PYTHON_ID)
FUZZ_BUILT := $(FUZZ_VENV)/.built
RAY_MADE := $(RAY_VENV)/.made-$(PYTHON_ID)
RAY_BUILT := $(RAY_VENV)/.built
WHEELS_MADE := $(WHEELS_VENV)/.made-$(PYTHON_ID)
#: The fuzz targets in C.
FUZZ_PROGRAMS := $(filter-out driver,$(patsubst tests/c/fuzz_%.c,%,$(wildcard tests/c/fuzz_*.c)))
COMPILED_FROM := $(shell find rwkv_cy -name '*.pyx' -o -name '*.pxd' -o -path '*/csrc/*.[ch]')

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Set-up

# The requirements of the build are read from pyproject.toml, the only place that lists them.
define make-environment
@command -v $(PYTHON) > /dev/null || { echo "rwkv_cy: there is no '$(PYTHON)' here; name a Python: make PYTHON=... $(MAKECMDGOALS)" >&2; exit 1; }
@$(PYTHON) tools/preflight.py
@echo "creating the environment $(1) with $$($(PYTHON) --version)"
@$(PYTHON) -m venv --clear $(1)
@sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | tr ',' ' ' | xargs $(1)/bin/$(PIP_INSTALL)
@touch $@
endef

$(MADE): tools/preflight.py
	$(call make-environment,$(VENV))

$(BUILT): $(MADE) setup.py $(COMPILED_FROM)
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# The package and its dependencies. The editable install does not compile: setup.py reuses what the rule above built.
$(VENV)/.package: $(MADE) pyproject.toml | $(BUILT)
	@echo "installing rwkv_cy and its dependencies"
	@$(BIN)/$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

# The same with an extra of pyproject.toml: "make test" needs no linter, "make demo" no pytest.
$(VENV)/.extra-%: $(MADE) pyproject.toml | $(BUILT)
	@echo "installing rwkv_cy and its dependencies [$*]"
	@$(BIN)/$(PIP_INSTALL) --no-build-isolation --editable ".[$*]"
	@touch $@

.PHONY: setup
setup: $(BUILT) $(VENV)/.extra-dev ## set up the environment with all developer tools

# The two commands

.PHONY: demo
demo: $(BUILT) $(VENV)/.package ## set up, convert the demo model, and generate text with it
	@mkdir -p $(dir $(DEMO_MODEL))
	@echo
	$(BIN)/rwkv-cy convert data/kjv7.pth $(DEMO_MODEL) --force
	@echo
	$(BIN)/rwkv-cy generate $(DEMO_MODEL) "$(DEMO_PROMPT)" --max-tokens 256 --temperature 0.8 --seed 1
	@echo
	@echo "Next:  $(BIN)/rwkv-cy inspect $(DEMO_MODEL)      what is in a file"
	@echo "       $(BIN)/rwkv-cy bench $(DEMO_MODEL)        tokens per second on this machine"
	@echo "       $(BIN)/rwkv-cy convert YOURS.pth model.h5 --dtype q8, then generate: your own model, quantized"

.PHONY: test
test: $(BUILT) $(VENV)/.extra-test ## set up, then run the tests
	@$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

# More tests

.PHONY: test-pythons
test-pythons: ## the tests with each interpreter of PYTHONS
	@for python in $(PYTHONS); do \
		$(MAKE) --no-print-directory test PYTHON=$$python \
			VENV=build/venv-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	done

$(ORACLE_MADE): tools/preflight.py
	$(call make-environment,$(ORACLE_VENV))

$(ORACLE_BUILT): $(ORACLE_MADE) pyproject.toml $(BUILT)
	@echo "installing torch and the other oracles"
	@$(ORACLE_BIN)/$(PIP_INSTALL) --no-build-isolation --editable ".[oracle]"
	@touch $@

.PHONY: oracle-setup
oracle-setup: $(ORACLE_BUILT)

.PHONY: test-oracles
test-oracles: $(ORACLE_BUILT) ## the comparisons with torch and packages that need it
	@$(ORACLE_BIN)/python -m pytest -m oracle $(PYTEST_ARGS)

$(CLIENTS_MADE): tools/preflight.py
	$(call make-environment,$(CLIENTS_VENV))

$(CLIENTS_BUILT): $(CLIENTS_MADE) pyproject.toml $(BUILT)
	@echo "installing the clients: openai, anthropic, langchain-openai, lm_eval, llm"
	@$(CLIENTS_BIN)/$(PIP_INSTALL) --no-build-isolation --editable ".[clients]"
	@touch $@

.PHONY: clients-setup
clients-setup: $(CLIENTS_BUILT)

.PHONY: test-clients
test-clients: $(CLIENTS_BUILT) ## the server and the plugins with the clients that people use, in an environment of its own
	@$(CLIENTS_BIN)/python -c "import anthropic, langchain_openai, llguidance, llm, lm_eval, openai"
	@$(CLIENTS_BIN)/python -m pytest tests/server/test_openai_client.py tests/server/test_other_clients.py \
		tests/server/test_docs.py tests/integrations $(PYTEST_ARGS)

#: Of "make soak".
SECONDS ?= 1200

.PHONY: soak
soak: $(BUILT) $(VENV)/.extra-test ## a server under mixed requests of 64 clients, for SECONDS; writes build/soak.md
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m soak --seconds $(SECONDS)
$(RAY_MADE): tools/preflight.py
	$(call make-environment,$(RAY_VENV))

$(RAY_BUILT): $(RAY_MADE) pyproject.toml $(BUILT)
	@echo "installing Ray, Dask and Spark"
	@$(RAY_BIN)/$(PIP_INSTALL) --no-build-isolation --editable ".[clusters,test]"
	@touch $@

.PHONY: test-slow
test-slow: $(BUILT) $(VENV)/.extra-test ## campaigns: kills, faults, damage in every place, a thousand requests
	@$(BIN)/python -m pytest $(WORKERS) -m "slow and not oracle" $(PYTEST_ARGS)

.PHONY: test-ray
test-ray: $(RAY_BUILT) ## batches on Ray, and the examples for Dask and Spark; in an environment of their own
	@$(RAY_BIN)/python -m pytest -m ray $(PYTEST_ARGS)

#: Of each kind in "make test-kills".
KILLS ?= 30

.PHONY: test-kills
test-kills: $(RAY_BUILT) ## batches killed at random moments: processes, actors, nodes, jobs; writes docs/batch.md
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(RAY_BIN)/python -m batch.kills --kills $(KILLS) --write docs/batch.md

#: Of the text of "make test-corpus".
BYTES ?= 2000000

.PHONY: test-corpus
test-corpus: $(BUILT) $(VENV)/.extra-test ## perplexity of a text of BYTES by batches, beside that of the command; minutes
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m batch.wikitext --bytes $(BYTES)

$(MINIMUM_MADE): tools/preflight.py tools/minimum.py pyproject.toml
	@$(PYTHON) tools/preflight.py
	@echo "creating the environment $(MINIMUM_VENV) with the oldest versions that pyproject.toml allows"
	@$(PYTHON) -m venv --clear $(MINIMUM_VENV)
	@$(MINIMUM_BIN)/python tools/minimum.py test | xargs $(MINIMUM_BIN)/$(PIP_INSTALL)
	@touch $@

.PHONY: test-minimum
test-minimum: $(MINIMUM_MADE) $(BUILT) ## the tests with the oldest allowed version of every dependency, in a separate build
	@$(MINIMUM_BIN)/python setup.py --quiet build --build-base build/minimum --build-lib build/minimum/lib
	@PYTHONPATH=$(abspath build/minimum/lib):$(CURDIR) $(MINIMUM_BIN)/python -P -m pytest $(WORKERS) $(PYTEST_ARGS)

$(FREE_VENV)/.made: pyproject.toml
	@command -v $(FREE_PYTHON) > /dev/null || { echo "test-free: there is no '$(FREE_PYTHON)' here; name a Python without a GIL: make FREE_PYTHON=... test-free" >&2; exit 1; }
	@echo "creating the environment $(FREE_VENV) with $$($(FREE_PYTHON) --version)"
	@$(FREE_PYTHON) -m venv --clear $(FREE_VENV)
	@$(FREE_VENV)/bin/$(PIP_INSTALL) --prefer-binary "setuptools>=77.0.1" "cython>=3.1" numpy h5py tqdm hypothesis jsonschema pytest pytest-xdist
	@touch $@

.PHONY: test-free
test-free: $(FREE_VENV)/.made ## models and kernels shared by Python threads without a GIL (FREE_PYTHON), in a separate build
	@$(FREE_VENV)/bin/python setup.py --quiet build --build-base build/free --build-lib build/free/lib
	@PYTHONPATH=$(abspath build/free/lib):$(CURDIR) PYTHONSAFEPATH=1 $(FREE_VENV)/bin/python tools/use_wheel.py
	@PYTHONPATH=$(abspath build/free/lib):$(CURDIR) PYTHONSAFEPATH=1 $(FREE_VENV)/bin/python -m pytest $(WORKERS) \
		tests/test_free_threading.py tests/test_lazy.py $(THREAD_TESTS) tests/model tests/engine/test_engine.py $(PYTEST_ARGS)

#: What depends on who shares the work.
THREAD_TESTS := $(addprefix tests/kernels/test_,threads.py float_mode.py stack.py matrix.py rwkv4.py rwkv7.py head.py) \
	tests/model/test_encoder.py

.PHONY: test-threads
test-threads: $(BUILT) $(VENV)/.extra-test ## the kernel tests with each thread backend, in separate builds
	@for backend in pool openmp none; do \
		echo "threads: $$backend"; \
		RWKV_CY_THREADS=$$backend $(BIN)/python setup.py --quiet build --build-base build/threads-$$backend \
			--build-lib build/threads-$$backend/lib; \
		(cd build && PYTHONPATH=threads-$$backend/lib $(abspath $(BIN))/python -c "import rwkv_cy.kernels.dispatch as d; \
			assert d.thread_backend() == '$$backend', d.__file__") 2>/dev/null \
			|| { echo "the build for $$backend is not what runs" >&2; exit 1; }; \
		PYTHONPATH=$(abspath build)/threads-$$backend/lib PYTHONSAFEPATH=1 $(BIN)/pytest -q $(THREAD_TESTS) || exit 1; \
	done

#: Of the compiled readers of files; with the C library's memory, in which a sanitizer sees each object's end.
READER_TESTS := $(addprefix tests/formats/test_,zip_directory.py pth.py pickle_vm.py)

.PHONY: test-sanitizers
test-sanitizers: $(BUILT) $(VENV)/.extra-test ## the thread pool under ThreadSanitizer, the kernels and readers under AddressSanitizer and UBSan
	@mkdir -p build/sanitizers
	@$(or $(CC),cc) -O2 -g -std=gnu11 -fsanitize=thread -DRK_THREADS=1 -Irwkv_cy/kernels/csrc \
		tests/c/stress_threads.c rwkv_cy/kernels/csrc/threads/threads_pool.c -pthread -o build/sanitizers/stress_threads
	@build/sanitizers/stress_threads 100000
	@mkdir -p build/sanitizers/kernels && cd build/sanitizers/kernels && $(or $(CC),cc) $(SANITIZED_FLAGS) \
		-c $(abspath $(KERNEL_SOURCES))
	@$(or $(CC),cc) $(SANITIZED_FLAGS) $(FAMILIES_TEST) build/sanitizers/kernels/*.o -lm -o build/sanitizers/families
	@build/sanitizers/families
	@for name in batches states_ahead; do \
		$(or $(CC),cc) $(SANITIZED_FLAGS) tests/c/$$name.c build/sanitizers/kernels/*.o -lm -o build/sanitizers/$$name \
			&& build/sanitizers/$$name || exit 1; \
	done
	@for name in $(FUZZ_PROGRAMS); do \
		$(or $(CC),cc) $(SANITIZED_FLAGS) tests/c/fuzz_$$name.c tests/c/fuzz_driver.c build/sanitizers/kernels/*.o -lm \
			-o build/sanitizers/fuzz_$$name && echo "fuzz: $$name" && build/sanitizers/fuzz_$$name -runs=5000 \
			$$(find tests/c/findings -path "*/$$name/*" -type f 2>/dev/null) || exit 1; \
	done
	@CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -g" LDFLAGS="-fsanitize=address,undefined" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python setup.py --quiet build \
		--build-base build/sanitizers --build-lib build/sanitizers/lib
	@LD_PRELOAD="$$($(or $(CC),cc) -print-file-name=libasan.so) $$($(or $(CC),cc) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(abspath build/sanitizers/lib) \
		$(BIN)/pytest -q tests/kernels tests/model -p no:faulthandler -k "not no_more_threads and not fork and not only_rows_are_read and not conversion_is_in_bounded_memory"
	@LD_PRELOAD="$$($(or $(CC),cc) -print-file-name=libasan.so) $$($(or $(CC),cc) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(abspath build/sanitizers/lib) \
		$(BIN)/pytest -q $(READER_TESTS) -p no:faulthandler

.PHONY: test-families
test-families: ## the kernels of every instruction set of this CPU against plain loops, without Python
	@mkdir -p build/families/objects && cd build/families/objects && $(or $(CC),cc) $(ABSOLUTE_FLAGS) \
		-DRK_THREADS=RK_THREADS_POOL -O2 -c $(abspath $(KERNEL_SOURCES))
	@$(or $(CC),cc) $(KERNEL_FLAGS) -O2 $(FAMILIES_TEST) build/families/objects/*.o -lm -o build/families/native
	@build/families/native
	@for name in batches states_ahead float_mode; do \
		$(or $(CC),cc) $(KERNEL_FLAGS) -O2 -pthread tests/c/$$name.c build/families/objects/*.o -lm -o build/families/$$name \
			&& build/families/$$name || exit 1; \
	done

#: CPUs of qemu, and the instruction sets that must be found and tested there.
ARM_CPUS := max:neonbf16,i8mm,dotprod,neon,portable neoverse-n1:dotprod,neon,portable cortex-a72:neon,portable \
	cortex-a53:neon,portable

.PHONY: test-neon
test-neon: ## the same for 64-bit ARM, cross-compiled and run by qemu as CPUs with and without each extension
	@for program in $(ARM_CC) $(ARM_RUN); do command -v $$program > /dev/null || { echo \
		"test-neon: $$program is missing (Debian, Ubuntu: apt-get install gcc-aarch64-linux-gnu qemu-user)" >&2; exit 1; }; done
	@mkdir -p build/families/arm && cd build/families/arm && $(ARM_CC) $(ABSOLUTE_FLAGS) -O2 -c $(abspath $(KERNEL_SOURCES))
	@for name in families batches states_ahead float_mode; do \
		$(ARM_CC) $(KERNEL_FLAGS) -O2 -static tests/c/$$name.c build/families/arm/*.o -lm -o build/families/neon_$$name || exit 1; \
	done
	@for cpu in $(ARM_CPUS); do \
		expected="instruction sets: $$(tr ',' ' ' <<< "$${cpu#*:}")"; \
		echo "$${cpu%%:*}:"; \
		case $$cpu in max:*) quick= ;; *) quick=quick ;; esac; \
		$(ARM_RUN) -cpu $${cpu%%:*} build/families/neon_families $$quick | tee build/families/arm/printed; \
		grep -qx "$$expected" build/families/arm/printed || { echo "test-neon: expected $$expected" >&2; exit 1; }; \
	done
	@$(ARM_RUN) -cpu max build/families/neon_batches
	@$(ARM_RUN) -cpu max build/families/neon_states_ahead
	@$(ARM_RUN) build/families/neon_float_mode

.PHONY: build/families/static
build/families/static:
	@mkdir -p build/families
	@$(or $(CC),cc) $(KERNEL_FLAGS) -O2 -static tests/c/families.c $(KERNEL_SOURCES) -lm -o build/families/static

.PHONY: test-avx512
test-avx512: build/families/static ## the same for AVX-512 with VNNI, emulated by bochs; minutes, and without the largest matrices
	@CC="$(or $(CC),cc)" tests/c/emulate.sh build/families/static build/avx512 corei7_icelake_u avx512vnni

.PHONY: test-amx
test-amx: build/families/static ## the same for AVX-VNNI and AMX, emulated by bochs 3.0 (BOCHS); CONTRIBUTING.md says how to build it
	@CC="$(or $(CC),cc)" tests/c/emulate.sh build/families/static build/avxvnni arrow_lake avxvnni
	@CC="$(or $(CC),cc)" tests/c/emulate.sh build/families/static build/amx sapphire_rapids amx

.PHONY: test-large
test-large: $(BUILT) $(VENV)/.extra-test ## kernels and readers with tensors beyond 2^31 elements, by zeros and sparse files; minutes
	@$(BIN)/python -m pytest -m large $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: fuzz-mutations fuzz-guided ## both kinds of fuzzing, for hours

.PHONY: fuzz-mutations
fuzz-mutations: $(BUILT) $(VENV)/.extra-test ## damaged files for every reader, drawn by hypothesis (FUZZ_EXAMPLES)
	@$(BIN)/python -m pytest tests/fuzz --fuzz-examples=$(FUZZ_EXAMPLES) $(PYTEST_ARGS)

$(FUZZ_MADE): tools/preflight.py
	$(call make-environment,$(FUZZ_VENV))

$(FUZZ_BUILT): $(FUZZ_MADE) pyproject.toml $(BUILT)
	@echo "installing atheris"
	@$(FUZZ_BIN)/$(PIP_INSTALL) --no-build-isolation --editable ".[fuzz]"
	@touch $@

build/fuzz/kernels.a: $(COMPILED_FROM)
	@command -v $(CLANG) > /dev/null || { echo \
		"fuzz: $(CLANG) is missing (Debian, Ubuntu: apt-get install clang libclang-rt-dev)" >&2; exit 1; }
	@mkdir -p build/fuzz/kernels && cd build/fuzz/kernels && $(CLANG) $(SANITIZED_FLAGS) -fsanitize=fuzzer-no-link \
		-c $(abspath $(KERNEL_SOURCES))
	@ar rcs $@ build/fuzz/kernels/*.o

build/fuzz/bin/%: tests/c/fuzz_%.c tests/c/fuzz.h build/fuzz/kernels.a
	@mkdir -p build/fuzz/bin
	@$(CLANG) $(SANITIZED_FLAGS) -fsanitize=fuzzer $< build/fuzz/kernels.a -lm -o $@

#: What instrumented Python code calls.
build/fuzz/fuzz_trace.so: tests/fuzz/fuzz_trace.c $(FUZZ_MADE)
	@mkdir -p build/fuzz
	@$(or $(CC),cc) -O2 -Wall -shared -fPIC \
		-I$$($(FUZZ_BIN)/python -c "import sysconfig; print(sysconfig.get_path('include'))") $< -ldl -o $@

.PHONY: fuzz-guided
fuzz-guided: $(FUZZ_BUILT) build/fuzz/fuzz_trace.so $(addprefix build/fuzz/bin/,$(FUZZ_PROGRAMS)) ## fuzzing guided by coverage, with atheris and libFuzzer (FUZZ_RUNS)
	@$(FUZZ_BIN)/python tools/fuzz.py --runs $(FUZZ_RUNS) $(FUZZ_ARGS)

#: At most so many moments of an operation, and changes of a file, in "make test-faults"; empty for all.
FAULTS_MOST ?=
FAULTS := PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m faults

.PHONY: test-faults
test-faults: $(BUILT) $(VENV)/.extra-test ## kill -9, full and failing disks, damaged files of every format; writes docs/reliability.md
	@$(FAULTS) moments $(if $(FAULTS_MOST),--most $(FAULTS_MOST)) --write docs/reliability.md
	@$(FAULTS) runs $(if $(FAULTS_MOST),--most $(FAULTS_MOST)) --write docs/reliability.md
	@$(FAULTS) damage $(if $(FAULTS_MOST),--most $(FAULTS_MOST)) --write docs/reliability.md

.PHONY: test-wheel
test-wheel: wheel ## install the wheel in a new environment and use it outside of the checkout
	@$(PYTHON) tools/check_wheel.py dist/*.whl

.PHONY: test-wheels
test-wheels: ## install the wheel of "make wheels" for this platform with each interpreter of PYTHONS, and use it
	@for python in $(PYTHONS); do $$python tools/check_wheel.py dist/*-manylinux*_$$(uname -m).whl; done

.PHONY: bench
bench: $(BUILT) $(VENV)/.extra-bench ## the measurements of benchmarks/ (BENCHMARKS)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

# Style

.PHONY: lint
lint: $(VENV)/.extra-dev ## ruff, cython-lint and import-linter
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@PATH="$(abspath $(BIN)):$$PATH" cython-lint rwkv_cy
	@$(BIN)/lint-imports --no-logo --no-cache

.PHONY: format
format: $(VENV)/.extra-dev ## format with ruff, and apply its safe fixes
	@$(BIN)/ruff check --no-cache --fix .
	@$(BIN)/ruff format .

.PHONY: typecheck
typecheck: $(VENV)/.extra-dev ## mypy, strict
	@$(BIN)/mypy

# What leaves the checkout

.PHONY: docs
docs: $(BUILT) $(VENV)/.extra-docs ## the documentation as HTML, in docs/_build/html
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: test-docs
test-docs: docs ## every page in a browser (Chromium), wide and on a phone, in light and dark
	@PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m docs_pages docs/_build/html

.PHONY: pictures
pictures: $(BUILT) $(VENV)/.package ## the pictures of docs/reports.md, drawn from the demo model
	@$(BIN)/python -m tools.report_pictures

.PHONY: dist
dist: $(VENV)/.extra-dev ## the source distribution, and the wheel built from it
	@rm -rf dist
	@$(BIN)/python -m build

.PHONY: wheel
wheel: dist

$(WHEELS_MADE): tools/preflight.py tools/wheels.txt
	@$(PYTHON) tools/preflight.py
	@echo "creating the environment $(WHEELS_VENV) with the tools of tools/wheels.txt"
	@$(PYTHON) -m venv --clear $(WHEELS_VENV)
	@$(WHEELS_VENV)/bin/$(PIP_INSTALL) --requirement tools/wheels.txt
	@touch $@

.PHONY: wheels
wheels: $(WHEELS_MADE) ## a wheel for each platform, by zig as the cross compiler, audited (WHEELS)
	@rm -f dist/*.whl
	@$(WHEELS_VENV)/bin/python tools/wheels.py dist --only "$(WHEELS)"

.PHONY: clean
clean: ## remove what was built, except the environments
	@rm -rf build dist docs/_build rwkv_cy.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find rwkv_cy tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
	@find rwkv_cy -name '*.so' -delete
	@find rwkv_cy -name '*.c' -not -path '*/csrc/*' -delete
	@rm -f $(VENV)/.built $(VENV)/.package $(VENV)/.extra-* $(ORACLE_BUILT) $(CLIENTS_BUILT) $(FUZZ_BUILT) $(RAY_BUILT)

.PHONY: distclean
distclean: clean ## remove the environments too
	@rm -rf $(VENV) $(ORACLE_VENV) $(CLIENTS_VENV) $(MINIMUM_VENV) $(FUZZ_VENV) $(RAY_VENV) $(WHEELS_VENV) $(FREE_VENV)
