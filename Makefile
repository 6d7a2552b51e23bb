# The commands of the project. Everything runs in .venv, which they make; nothing is installed elsewhere.
#
#   make demo     see it work          make check    every static check
#   make test     every test, small    make gen      after a change to proto/ or queries/

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-header --allow-unsafe $(LOCK_ARGS)

# The stamps: what runs the product, and what develops it. `make demo` is quick because it needs only the first.
RUN := .venv/run.stamp
DEV := .venv/dev.stamp

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long check gen sdk bench format lock released clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

venv: $(DEV) ## make .venv with everything that development needs

demo: $(RUN) ## start the whole system with sample data and follow one bill through it
	@$(BIN)/tollway demo

test: $(DEV) ## run every test once, with small counts
	@$(BIN)/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

test-long: $(DEV) ## run the same tests with full counts, Kafka, the SDKs and chaos
	@$(BIN)/python -m tools.grpcurl || echo 'the tests with grpcurl are skipped'
	@$(BIN)/python -m tools.clients.languages
	@$(BIN)/python -m tools.kafka_for_tests fetch || echo 'the tests with Kafka will say what they lack'
	@TOLLWAY_TEST_SIZE=long $(BIN)/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

check: $(DEV) ## format, lint, types, import contracts, protos, freshness of what is generated
	@$(BIN)/python -m tools.check

gen: $(DEV) ## generate code and pages from proto/, queries/ and the state tables; needs no network
	@$(BIN)/python -m tools.generate

sdk: $(DEV) ## fetch what the clients in other languages are made with, where Go, Node or Java is there
	@$(BIN)/python -m tools.clients.languages

bench: $(DEV) ## measure, and write bench/RESULTS.md
	@$(BIN)/python -m bench

format: $(DEV) ## format the code and the protos
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write --path proto/tollway

lock: $(DEV) ## resolve the dependencies anew; LOCK_ARGS=--upgrade takes newer versions
	@$(LOCK) pyproject.toml --extra dev -o requirements/dev.txt
	@$(LOCK) pyproject.toml requirements/build.in -c requirements/dev.txt -o requirements/run.txt

released: $(DEV) ## at a release: keep the contract's image, which later changes must not break
	@$(BIN)/buf build --path proto/tollway -o proto/released.binpb

clean: ## remove .venv, caches and builds
	@rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment ---

# A .venv that works is kept; one that was left half made, or has lost its interpreter, is made anew.
.venv/made.stamp:
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			echo "Tollway needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)" >&2; \
			echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		echo "making .venv (once)"; \
		$(PYTHON) -m venv --clear .venv; }
	@touch $@

# The three folders are the import roots. The finder of an editable install comes after the search of the path, where
# the SQL folder queries/ would hide the generated package of that name; as roots they are on the path itself.
$(RUN): .venv/made.stamp requirements/run.txt pyproject.toml setup.py
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e . > .venv/install.log 2>&1 || { cat .venv/install.log >&2; exit 1; }
	@printf '%s\n' "$(CURDIR)" "$(CURDIR)/gen" "$(CURDIR)/gen/python" > \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tollway_roots.pth"
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
