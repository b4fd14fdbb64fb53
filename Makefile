# Everything a contributor runs. `make` alone prints this list.
# Needs Python 3.11+, cargo, g++ and make; the rest is installed into .venv.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON ?= $(CURDIR)/$(BIN)/python

comma := ,
# What glibc's allocator must be told so that torch does not fault the same pages in anew in every step.
KEEPS_FREED := MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
ISAS ?= $(shell $(BIN)/python -c "from wordkiln import _kernels; print(*_kernels.available_isas())" 2>/dev/null)
NATIVE := $(shell find csrc rust -type f -not -path '*/target/*' 2>/dev/null) Cargo.toml Cargo.lock pyproject.toml
CXX_FILES := $(shell git ls-files --cached --others --exclude-standard 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.h' 'csrc/*.inc' 2>/dev/null)
say = @printf '\033[1m== %s\033[0m\n' "$(1)"

.PHONY: help demo test test-rust test-python sanitize cuda-check cuda-build cuda-simt cuda-ptx cuda-sanitize cuda-races cuda-tables cuda-mutants gpu gpu-package gpu-wheels fuzz bench lint fmt wheel check-install clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | column -t -s '|'

demo: $(VENV)/.built-train ## Train a tokenizer and two language models, and write with them (CORPUS=path for your own text)
	$(call say,training on $(if $(CORPUS),$(CORPUS),the source of Python's standard library))
	@$(BIN)/wordkiln demo $(if $(CORPUS),--corpus "$(CORPUS)") --output demo-out

test: test-rust test-python ## All tests

test-rust: $(VENV)/.built-test
	$(call say,testing the Rust crates)
	@cargo test --locked --quiet

# Two files of tests beside each other: most tests keep one core busy, those of huge arrays stand in one file.
test-python: $(VENV)/.built-test
	$(call say,testing the Python package)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

# libstdc++ is loaded early so that AddressSanitizer finds the function that throws.
sanitize: $(VENV)/.built-test ## The kernel tests on an AddressSanitizer and UBSan build (ISAS="baseline avx2" for some instruction sets)
	$(call say,compiling the kernels with sanitizers)
	@$(BIN)/cmake -S csrc -B target/sanitize -G Ninja -DCMAKE_BUILD_TYPE=Release -DWORDKILN_SANITIZE=ON \
	    -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/pybind11-config --cmakedir) >target/sanitize.log
	@$(BIN)/cmake --build target/sanitize >>target/sanitize.log || { cat target/sanitize.log; exit 1; }
	@for isa in $(ISAS); do \
	    printf '\033[1m== testing %s\033[0m\n' $$isa; \
	    WORDKILN_ISA=$$isa LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	        $(BIN)/python tests/kernels/sanitized.py target/sanitize/_kernels*.so; \
	done

# Rungs of docs/cuda.md. No GPU is needed; nvcc comes from PyPI into .venv. First everything is compiled, then the rungs
# run beside each other. The build's folder is also that of tests/cuda/conftest.py.
CUDA := target/cuda
SIMT = $(CURDIR)/$(CUDA)/simt
CUDA_PYTEST = OMP_NUM_THREADS=1 WORDKILN_SIMT=$$(ls $(SIMT)/$(1)/_simt*.so) $(2) $(BIN)/python -m pytest -q -p no:cacheprovider
cuda-check: cuda-build ## The GPU kernels without a GPU: compiled for four architectures, run on a CPU with sanitizers (ten minutes)
	@$(MAKE) --no-print-directory -j$$(nproc) --output-sync=target cuda-sanitize cuda-mutants cuda-ptx cuda-simt cuda-tables cuda-races \
	    "MUTANTS=--first 'no barrier before keys are overwritten' 'tail read out of bounds'"

cuda-build: $(VENV)/.built-test $(VENV)/.deps-ladder
	$(call say,compiling the kernels for GPUs (sm_80$(comma) sm_90$(comma) sm_100$(comma) sm_120) and$(comma) three times$(comma) for a CPU)
	@mkdir -p target
	@$(BIN)/cmake -S csrc -B $(CUDA) -G Ninja -DCMAKE_BUILD_TYPE=Release -DWORDKILN_CUDA=ON -DWORDKILN_SIMT=ON \
	    -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/pybind11-config --cmakedir) >target/cuda.log
	@$(BIN)/cmake --build $(CUDA) --target _cuda _simt _simt_sanitize _simt_races >>target/cuda.log || { cat target/cuda.log; exit 1; }
	@$(BIN)/python tests/cuda/imported.py $(CUDA)/cuda/_cuda*.so

cuda-simt:
	$(call say,running the kernels on a CPU: what takes too long with sanitizers)
	@$(call CUDA_PYTEST,_simt) tests/cuda -m "slow and not gpu" --ignore=tests/cuda/test_ptx.py

cuda-ptx:
	$(call say,running their PTX)
	@$(call CUDA_PYTEST,_simt,WORDKILN_CUDA_MODULE=$$(ls $(CURDIR)/$(CUDA)/cuda/_cuda*.so)) tests/cuda/test_ptx.py

# libstdc++ is loaded early so that AddressSanitizer finds the function that throws.
cuda-sanitize:
	$(call say,running the kernels on a CPU with AddressSanitizer and UBSan)
	@$(call CUDA_PYTEST,_simt_sanitize,ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
	    LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)") \
	    tests/cuda -m "not slow and not gpu" --ignore=tests/cuda/test_ptx.py --capture=sys --timeout=0

cuda-races:
	$(call say,looking for races)
	@$(call CUDA_PYTEST,_simt_races) tests/cuda/test_executor.py
	@cd tests/cuda && for family in $$($(CURDIR)/$(BIN)/python -m ladder.trial); do \
	    found=$$($(CURDIR)/$(BIN)/python -m ladder.trial $$family $(SIMT)/_simt_races/_simt*.so); \
	    echo "$$family: $$found"; test "$$found" = -; \
	done

# TABLES=--write: the tables as they are now, where a change is meant.
cuda-tables: ## Compare registers, occupancy, main loops and bank conflicts with the committed tables; after cuda-build (TABLES=--write)
	$(call say,comparing registers$(comma) occupancy$(comma) main loops and bank conflicts with the committed tables)
	@cd tests/cuda && $(CURDIR)/$(BIN)/python -m ladder.tables $(CURDIR)/$(CUDA)/cuda/_cuda*.so $(SIMT)/_simt/_simt*.so $(TABLES)

cuda-mutants: ## Every planted bug in the GPU kernels, each of which a rung must catch; after cuda-build (an hour; MUTANTS="'name' --write")
	$(call say,planting bugs)
	@cd tests/cuda && $(CURDIR)/$(BIN)/python -m ladder.mutants $(MUTANTS)

# WHEELS=folder, for a machine that has no cargo or no network: wheels that were built elsewhere (of the package by
# `WORDKILN_CUDA=ON make wheel`, and of what PYTHON has not) go to target/gpu, and PYTHON, with its own torch, runs.
# Without a GPU it fails: all would be skipped, and a runner with a broken driver be green.
GPU_PYTHON = $(if $(WHEELS),PYTHONPATH=$(CURDIR)/target/gpu $(PYTHON),$(BIN)/python)
gpu: $(if $(WHEELS),gpu-wheels,gpu-package) ## Where there is a GPU: the tests and comparisons that need one (WHEELS=folder PYTHON=python3: of wheels)
	$(call say,testing the kernels on the GPU)
	@$(GPU_PYTHON) -c "from wordkiln import _cuda; exit(None if _cuda.device_count() else 'make gpu: ' + _cuda.why_no_device())"
	@$(GPU_PYTHON) -m pytest -q -m gpu tests/cuda
	$(call say,comparing them with torch's)
	@$(GPU_PYTHON) -m pytest -q -s --timeout=0 bench/test_gpu.py

gpu-package: $(VENV)/.built-test $(VENV)/.deps-cuda
	$(call say,compiling the package with its kernels for GPUs)
	@WORDKILN_CUDA=ON $(UV) pip install --quiet --no-build-isolation --no-deps -e .

gpu-wheels:
	@rm -rf target/gpu
	@$(PYTHON) -m pip install --quiet --no-index --no-deps --target target/gpu $(wildcard $(WHEELS)/*.whl)

fuzz: ## Fuzz loading, training and encoding of tokenizers (SECONDS_EACH=60, TARGETS=load)
	@bash rust/bpe/fuzz/run.sh

bench: $(VENV)/.built-bench ## Our speed beside our peers', in one run (BENCH=pattern for some of them)
	$(call say,beside our peers as they are)
	@$(BIN)/python -m pytest bench -q -s --timeout=0 $(if $(BENCH),-k "$(BENCH)")
	$(call say,the kernels again beside a torch whose allocator keeps what is freed)
	@$(KEEPS_FREED) $(BIN)/python -m pytest bench -q -s --timeout=0 -k "kernels$(if $(BENCH), and ($(BENCH)))" || [ $$? = 5 ]

lint: $(VENV)/.built-lint ## Formatting, lints, types, stubs
	$(call say,Rust: fmt and clippy)
	@cargo fmt --all --check
	@cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	$(call say,C++: clang-format)
	@$(if $(CXX_FILES),$(BIN)/clang-format --dry-run --Werror $(CXX_FILES))
	$(call say,Python: ruff$(comma) mypy$(comma) stubtest)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/stubtest wordkiln._rust wordkiln._kernels --ignore-disjoint-bases

fmt: $(VENV)/.deps-lint ## Format everything in place
	@cargo fmt --all
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .
	@$(if $(CXX_FILES),$(BIN)/clang-format -i $(CXX_FILES))

wheel: $(VENV)/.deps-build ## A wheel and a source distribution in dist/
	@$(BIN)/maturin build --release --sdist --out dist

check-install: ## Every way to install: pip, editable, maturin develop, sdist, wheel without a compiler
	@bash tests/check_install.sh

clean: ## Remove what make made
	rm -rf $(VENV) target dist demo-out

$(UV):
	$(call say,creating $(VENV))
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# The build's requirements stand in pyproject.toml alone.
$(VENV)/.deps-build: pyproject.toml | $(UV)
	$(call say,installing the build tools (maturin, CMake, ninja, pybind11))
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
	    | $(UV) pip install --quiet -r -
	@touch $@

$(VENV)/.deps-%: pyproject.toml | $(UV)
	$(call say,installing what wordkiln[$*] needs$(if $(filter train test bench lint cuda,$*), (torch from PyPI is about 3 GB to download once)))
	@$(UV) pip install --quiet -r pyproject.toml --extra $*
	@touch $@

# Editable and without build isolation: an edit in csrc/ or rust/ rebuilds in seconds.
$(VENV)/.native: $(NATIVE) $(VENV)/.deps-build
	$(call say,compiling the Rust and C++ parts)
	@$(UV) pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.built-%: $(VENV)/.deps-% $(VENV)/.native
	@touch $@
.SECONDARY:
