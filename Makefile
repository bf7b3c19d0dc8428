# Everything this project can do from a fresh clone. Needs python3 (3.11 or later, with venv),
# make, and a C compiler for the machines that find no ready wheel.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test transports transport-bytes transport-records transport-tls faults check format bench trace walk docs screenshot clean python-is-fit

help:
	@echo 'make demo    serve the demo application at http://127.0.0.1:8000'
	@echo 'make test    all tests                     (ARGS="-k name -x" goes to pytest)'
	@echo 'make transports  the same over three transports that are no plain sockets (or one: make transport-bytes, -records, -tls)'
	@echo 'make faults  look for wrong responses while something goes wrong  (ARGS="--help")'
	@echo 'make check   ruff and mypy                 (make format mends what ruff can)'
	@echo 'make bench   measure against the peers     (ARGS="--help" shows what can be set)'
	@echo 'make trace   count the system calls of a request'
	@echo 'make walk    list the files and functions that a request enters'
	@echo 'make docs    write the generated pages again'
	@echo 'make screenshot  take the picture of the status page in docs again'
	@echo 'make clean   remove what the others made'

# --- the virtual environment -----------------------------------------------------------------
# Made again only when pyproject.toml changes; a stamp for each group of dependencies, so that the
# demo need not wait for the tools. A stamp lies inside the environment and dies with it.

python-is-fit:
	@command -v $(PYTHON) >/dev/null || { echo "halfsync needs Python 3.11 or later, and there is no '$(PYTHON)' here. Install it, or say which: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "halfsync needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Say which to use: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# dependency groups are known to pip from 25.1 on
$(VENV)/made-base: pyproject.toml | python-is-fit
	@echo 'making $(VENV) ...'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install --editable .
	@touch $@

$(VENV)/made-%: $(VENV)/made-base
	@echo 'installing what "make $(or $(firstword $(MAKECMDGOALS)),$*)" needs ...'
	@$(PIP) install --group $*
	@touch $@

# --- what one does ---------------------------------------------------------------------------

DEMO := examples/demo

demo: $(VENV)/made-demo
	@cd $(DEMO) && $(CURDIR)/$(PY) -m guestbook.prepare
	cd $(DEMO) && exec $(CURDIR)/$(VENV)/bin/halfsync -c halfsync.toml $(ARGS)

# Most tests wait for processes rather than for a core, hence more of pytest's workers than cores:
# on 2 cores 4 take 5 minutes, where one takes over 15. ARGS="-n 0" runs them one after another.
# The plugins are those of packages that are here for another reason, and take each worker 2 s to load.
PARALLEL := -n 4 --dist worksteal -p no:anyio -p no:faker

test: $(VENV)/made-dev
	$(PY) -m pytest $(PARALLEL) $(ARGS)

# The tests of the pump and the end-to-end tests over each transport of tests/pump/transports.py, also if some
# fail over the first, and those of the pump over TLS; `make test` runs a part of them so. `make transport-bytes ARGS=--lf`: over that one,
# what failed there last time.
transports: $(VENV)/made-dev
	$(PY) -m tests.over_transports -- $(PARALLEL) $(ARGS)

transport-bytes transport-records transport-tls: transport-%: $(VENV)/made-dev
	$(PY) -m tests.over_transports $* -- $(PARALLEL) $(ARGS)

faults: $(VENV)/made-dev
	$(PY) -m faults $(ARGS)

check: $(VENV)/made-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/made-dev
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

bench: $(VENV)/made-bench
	$(PY) -m bench $(ARGS)

trace: $(VENV)/made-base
	$(PY) -m bench.trace $(ARGS)

walk: $(VENV)/made-base
	$(PY) -m bench.walk $(ARGS)

docs: $(VENV)/made-dev
	@for script in docs/make_*.py; do echo $(PY) $$script; $(PY) $$script || exit 1; done

screenshot: $(VENV)/made-dev
	$(PY) -m docs.take_screenshot $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(DEMO)/var
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
