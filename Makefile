# The verbs of this project; `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# 3.11 or 3.12; the first that is found.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
# Without a GPU, PyTorch's CPU build saves gigabytes: make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.PHONY: help
help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

.PHONY: install
install: $(INSTALLED) ## Make .venv with everything

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Tunery needs Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e ".[api,worker,otel,wandb,embedded,dev]"
	@touch $@

.PHONY: demo
demo: install ## Fine-tune a small model on this machine and see the difference
	$(BIN)/tunery demo

.PHONY: up
up: install ## Run the whole service here until Ctrl-C, its data in ./data
	$(BIN)/tunery up

.PHONY: test
test: lint docs ## Everything that must hold: checks and tests
	$(MAKE) --no-print-directory -j 2 types tests

# `tests/conftest.py` puts the slowest files first, and each is one process's. Each test has one thread
# to compute with: more would wait for those of the tests beside it.
.PHONY: tests
tests: export OMP_NUM_THREADS := 1
tests: install browser
	$(BIN)/python -m pytest --forks 4 -m "not long"

.PHONY: long
long: export OMP_NUM_THREADS := 1
long: install ## The tests that are too long for `make test`
	$(BIN)/python -m pytest --forks 4 -m long

.PHONY: ranks
ranks: export OMP_NUM_THREADS := 1
ranks: install ## Trainings in several processes: killed, frozen, stopped, orphaned, resumed by others
	$(BIN)/python -m pytest tests/ranks

.PHONY: browser
browser: ## Have Chromium for the console's tests; from Debian's packages, if it is not here
	@tests/console/install_browser.sh

# The console runs as it lies in api/ui/assets, without Node. This proves that its libraries are
# those of api/ui/package-lock.json, and checks its types.
CONSOLE := build/console
.PHONY: console
console: ## Check the console's libraries and types; needs npm
	@command -v npm >/dev/null || { echo "npm is not on the PATH: install Node.js 20 or newer, from https://nodejs.org or Debian's package npm." >&2; exit 1; }
	mkdir -p $(CONSOLE)
	cp api/ui/package.json api/ui/package-lock.json $(CONSOLE)
	npm ci --prefix $(CONSOLE) --ignore-scripts --no-audit --no-fund --silent
	cmp $(CONSOLE)/node_modules/htm/preact/standalone.module.js api/ui/assets/vendor/preact.js
	cmp $(CONSOLE)/node_modules/uplot/dist/uPlot.esm.js api/ui/assets/vendor/uplot.js
	cmp $(CONSOLE)/node_modules/uplot/dist/uPlot.min.css api/ui/assets/vendor/uplot.css
	$(CONSOLE)/node_modules/.bin/tsc -p api/ui

# The provider is panva's oidc-provider, as tests/login/package-lock.json names it.
LOGIN := build/login
.PHONY: login
login: install browser ## Sign in at a real OpenID Connect provider; needs npm
	@command -v npm >/dev/null || { echo "npm is not on the PATH: install Node.js 20 or newer, from https://nodejs.org or Debian's package npm." >&2; exit 1; }
	mkdir -p $(LOGIN)
	cp tests/login/package.json tests/login/package-lock.json tests/login/provider.mjs $(LOGIN)
	npm ci --prefix $(LOGIN) --ignore-scripts --no-audit --no-fund --silent
	$(BIN)/python -m pytest tests/login/real_provider.py

# Debian's package nginx-light is enough.
.PHONY: replicas
replicas: install ## Two API processes behind a real nginx: streams, uploads, limits, sessions; needs nginx
	$(BIN)/python -m pytest -q -s tests/replicas/real_proxy.py

# promtool parses what the dashboards ask too, as the rules of a file that is made of them.
.PHONY: alerts
alerts: install ## Check the alerts, run their tests, and parse what the dashboards ask; needs promtool
	mkdir -p build
	$(BIN)/python -m tests.deploy.queries > build/dashboards.rules.yaml
	deploy/alerts/promtool.sh check rules --lint-fatal deploy/alerts/tunery.rules.yaml build/dashboards.rules.yaml
	deploy/alerts/promtool.sh test rules deploy/alerts/tunery.tests.yaml

# Without a cluster: helm's own rendering, the schemas of Kubernetes and KEDA, and the rendered
# commands as processes of this machine.
CHART := build/chart
.PHONY: chart
chart: install $(CHART)/.made ## Try the Helm chart: what it renders, what it refuses, what it starts
	$(BIN)/python -m pytest tests/chart --helm $(CHART)

$(CHART)/.made: tests/chart/tools.py tests/chart/helm.txt tests/chart/schemas.txt | install
	rm -rf $(CHART) && mkdir -p $(CHART)
	$(BIN)/python -m tests.chart.tools $(CHART)
	@touch $@

.PHONY: screenshots
screenshots: install browser ## Pictures of the console into docs/images
	$(BIN)/python -m docs.screenshots

# Far from the checkout, whose folders Python would find.
.PHONY: wheel
wheel: install ## Build the wheel into dist/, and run the demo from it in an environment of its own
	rm -rf dist build/wheel
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip --disable-pip-version-check install --quiet -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch "$$(echo dist/*.whl)[all]"
	cd / && $(CURDIR)/build/wheel/bin/tunery demo --data-dir $(CURDIR)/build/wheel/data --port $(or $(PORT),8000)

.PHONY: conformance
conformance: install ## Every answer against OpenAI's types, and its OpenAPI file: SCHEMA=FILE
	$(BIN)/python -m pytest tests/conformance -s $(if $(SCHEMA),--schema $(SCHEMA))

.PHONY: storage
storage: install ## Storage in a bucket of a real S3 server, with its outages, and a move there and back
	$(BIN)/python -m pytest --s3 $(addprefix tests/api/storage/test_,s3.py moving.py) tests/e2e/test_object_storage.py

.PHONY: fuzz
fuzz: install ## Wrong and hostile requests to every route, and a table; CASES=N to a route, SEED=N
	$(BIN)/python -m pytest tests/fuzz -s --timeout 0 -o faulthandler_timeout=0 --fuzz $(or $(CASES),200) $(if $(SEED),--fuzz-seed $(SEED))

.PHONY: clients
clients: install ## Programs made for OpenAI's fine-tuning, unmodified; ONLY="NAME ..." some of them
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(BIN)/python -m tests.clients $(ONLY)

.PHONY: servers
servers: install ## A real vLLM and a real llama-server in the place of a worker, and what they prove
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(BIN)/python -m tests.servers

.PHONY: chaos
chaos: install ## Kill, freeze, cut off and race everything, and print a table; FULL=1 for hours
	$(BIN)/python -m tests.chaos $(if $(FULL),--full)

.PHONY: upgrade
upgrade: install ## The release before on this schema, and an upgrade under load; FULL=1 with 10^6 jobs
	$(BIN)/python -m tests.upgrade $(if $(FULL),--full) $(foreach name,$(ONLY),--only $(name))

.PHONY: drill
drill: install ## Back a service up while it trains, restore it elsewhere, and compare everything
	$(BIN)/python -m tests.upgrade.drill

.PHONY: attack
attack: install ## A hostile tenant, a hostile client, a sick machine, and a table; ONLY="NAME ..." some
	$(BIN)/python -m tests.attack $(foreach name,$(ONLY),--only $(name))

.PHONY: families
families: install ## Examine every family of models, and write the table of docs/models.md
	$(BIN)/python -m tests.families

.PHONY: check
check: lint docs types ## Format, lint, types, imports, documents

.PHONY: lint
lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

.PHONY: types
types: install
	$(BIN)/mypy

# Material's makers announce their next program in each build without this.
.PHONY: docs docs-serve
docs: install ## The documents as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: install ## The same on http://127.0.0.1:8000, anew at each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

.PHONY: format
format: install ## Put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench-latency
bench-latency: install ## How long a user waits for a start and for a first step
	$(BIN)/python -m benchmarks.latency

.PHONY: bench-api
bench-api: install ## What the API costs beside bare servers, and lists of 10^6 jobs; SIZE=GB, JOBS=number
	$(BIN)/python -m benchmarks.api $(if $(SIZE),--size $(SIZE)) $(if $(JOBS),--jobs $(JOBS))

.PHONY: bench-check
bench-check: install ## What a check of 1 GB of chats costs beside decoding it; DATA=FILE, or SIZE=megabytes
	$(BIN)/python -m benchmarks.check $(if $(DATA),--data $(DATA)) $(if $(SIZE),--size $(SIZE))

.PHONY: bench-train
bench-train: install ## How fast the engine trains, against plain torch and TRL; DATA=FILE adds long rows
	$(BIN)/python -m benchmarks.train $(if $(DATA),--data $(DATA))

# No engine is needed: the Dockerfile's steps in a chroot, and compose's services from it. As root, with
# debootstrap; it takes 3 GB.
.PHONY: images
images: install ## Build the images' layers by hand, start compose's services from them, train a job
	$(BIN)/python -m tests.images build
	$(BIN)/python -m tests.images run

.PHONY: bench-scaling
bench-scaling: install ## Cost and waiting of a fleet that follows the demand, simulated; DAYS=number
	$(BIN)/python -m benchmarks.scaling --figure docs/images/scaling.svg $(if $(DAYS),--days $(DAYS))

.PHONY: bench-answers
bench-answers: install ## How fast models answer, beside transformers, and what that costs a training; BASE=FOLDER
	$(BIN)/python -m benchmarks.answers $(if $(BASE),--base $(BASE))

.PHONY: real
real: install ## Two real models out of PyPI's packages: before and after, and beside TRL; DATA=FILE, ONLY=NAME
	$(BIN)/python -m benchmarks.real $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-rows
bench-rows: install ## What the engine holds and takes for a million short rows; ROWS=number
	$(BIN)/python -m benchmarks.rows $(if $(ROWS),--rows $(ROWS))

.PHONY: bench-gpu
bench-gpu: install ## The engine on one GPU; ONLY="SLICE ..." some slices, TINY=1 tried on a CPU
	$(BIN)/python -m benchmarks.gpu $(if $(ONLY),--only $(ONLY)) $(if $(TINY),--tiny) \
		$(if $(FOLDER),--folder $(FOLDER)) $(if $(UNSLOTH_PYTHON),--unsloth-python $(UNSLOTH_PYTHON))

.PHONY: bench-gpu-first
bench-gpu-first: install ## The first ten minutes on a GPU; ONLY="STAGE ..." some stages, TINY=1 on a CPU
	$(BIN)/python -m benchmarks.gpu.first $(ONLY) $(if $(TINY),--tiny)

.PHONY: gpu-sim
gpu-sim: export OMP_NUM_THREADS := 1
gpu-sim: install ## Each family's path on a simulated GPU beside its budget; WRITE=1 writes the budgets
	$(BIN)/python -m tests.gpu $(if $(WRITE),--write) $(if $(ONLY),--only $(ONLY))

.PHONY: kernels
kernels: export TRITON_INTERPRET := 1
kernels: install ## Our kernels for CUDA: in Triton's interpreter, and compiled for GPUs that are not here
	$(BIN)/pip install --quiet --no-deps --target .kernels --upgrade triton==3.7.1
	PYTHONPATH=.kernels:. $(BIN)/python -m pytest tests/kernels

.PHONY: test-gpu
test-gpu: install ## The engine's tests on a GPU, which must be there
	@$(BIN)/python -c 'import torch; torch.cuda.is_available() or exit("No CUDA device: make test runs these on a CPU.")'
	$(BIN)/python -m pytest tests/engine

.PHONY: clean
clean: ## Remove the environment, the demo and all caches; not ./data
	rm -rf $(VENV) .clients .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
