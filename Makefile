# TaskFlow: `make up` starts everything, `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON := .venv/bin/python
STACK := $(PYTHON) -m taskflow_local
INSTALLED := .venv/.taskflow-installed

# What `make test` gives to pytest; one folder: make test PYTEST="-n 0 tests/support"
PYTEST ?= -n auto --cov
# What mypy checks by file, beside the packages that pyproject.toml names.
TYPED_FOLDERS := shared/tests services/api/tests services/consumer/tests services/scheduler/tests \
	deploy/local/tests deploy/audit/tests tests migrations examples/demo.py locustfile.py
# The load that `make load` puts on.
USERS ?= 50
SPAWN_RATE ?= 10
DURATION ?= 60s

# An environment that was copied or moved here is made anew.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

$(INSTALLED): uv.lock pyproject.toml $(wildcard */pyproject.toml */*/pyproject.toml)
	@deploy/local/bootstrap.sh

##@ Everything

.PHONY: up down clean ps logs
up: $(INSTALLED) ## install what is missing, start everything, print the addresses
	@$(STACK) up

down: $(INSTALLED) ## stop everything
	@$(STACK) down

clean: $(INSTALLED) ## stop everything and delete the data; .env stays
	@$(STACK) clean

ps: $(INSTALLED) ## what runs
	@$(STACK) ps

logs: $(INSTALLED) ## follow the logs; one program's: make logs s=api
	@$(STACK) logs $(s)

##@ Tests

.PHONY: test check test-broker test-up test-down
test: check ## lint, types and every test but chaos and load, against real servers
	@$(STACK) test -- $(PYTHON) -m pytest $(PYTEST)

check: $(INSTALLED) ## lint, types and the rules of import
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy --exclude 'tests/(support|chaos|load)/taskflow_' $(TYPED_FOLDERS)
	@.venv/bin/lint-imports

test-broker: $(INSTALLED) ## the broker's tests alone (TASKFLOW_TEST_AMQP_URL names another broker)
	@$(STACK) test -- $(PYTHON) -m pytest -m broker

test-up: $(INSTALLED) ## servers for tests that stay, so that pytest runs by hand
	@$(STACK) test-up

test-down: $(INSTALLED) ## stop them
	@$(STACK) test-down

.PHONY: audit
audit: ## known vulnerabilities, bandit, licences, an SBOM; more: make audit args=--feed-required
	@deploy/local/bootstrap.sh --group audit
	@$(PYTHON) -m taskflow_audit $(args)

##@ Faults

.PHONY: chaos chaos-gate
chaos: $(INSTALLED) ## every fault scenario; some: make chaos s="C1 C5" jobs=1000 seed=7
	@$(PYTHON) -m taskflow_chaos $(s) $(if $(jobs),--jobs $(jobs)) $(if $(seed),--seed $(seed))

chaos-gate: $(INSTALLED) ## the four scenarios of CI, with fewer jobs
	@$(PYTHON) -m taskflow_chaos --gate $(if $(seed),--seed $(seed))

##@ Figures

.PHONY: bench bench-gate bench-more flames
bench: ## side by side with others: make bench ROUNDS=3 ONLY=taskflow,celery JOBS=20000
	@deploy/local/bootstrap.sh --group bench
	@$(PYTHON) -m taskflow_bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(SECONDS),--seconds $(SECONDS))

bench-gate: $(INSTALLED) ## TaskFlow against the least that its work can cost, in short
	@$(PYTHON) -m taskflow_bench --gate $(if $(ROUNDS),--rounds $(ROUNDS))

bench-more: $(INSTALLED) ## TaskFlow alone, in other lights: make bench-more ONLY=payloads,knee SCALE=0.1
	@$(PYTHON) -m taskflow_bench.more $(if $(ONLY),--only $(ONLY)) $(if $(SCALE),--scale $(SCALE)) \
		$(if $(BACKLOG),--backlog $(BACKLOG)) $(if $(MEMORY_JOBS),--memory-jobs $(MEMORY_JOBS))

flames: ## where API and worker spend their time, as flame graphs in docs/flames; as root
	@deploy/local/bootstrap.sh --group bench
	@$(PYTHON) -m taskflow_bench.flames

##@ Against what runs

.PHONY: doctor reseal smoke demo load
doctor: $(INSTALLED) ## say what is wrong and what to do; more: make doctor args="--json --jobs 0"
	@$(PYTHON) -m taskflow doctor $(args)

reseal: $(INSTALLED) ## seal all that jobs hold with the first key; look first: make reseal args=--dry-run
	@$(PYTHON) -m taskflow reseal $(args)

smoke: $(INSTALLED) ## check the public flows
	@$(PYTHON) tests/smoke.py

demo: $(INSTALLED) ## submit a lively mix of jobs to look at
	@$(PYTHON) examples/demo.py

load: ## Locust for a minute: make load USERS=50 SPAWN_RATE=10 DURATION=60s
	@deploy/local/bootstrap.sh --group load
	@mkdir -p .taskflow/load
	@$(PYTHON) -m locust --headless --only-summary --locustfile locustfile.py \
		--users $(USERS) --spawn-rate $(SPAWN_RATE) --run-time $(DURATION) \
		--html .taskflow/load/report.html --csv .taskflow/load/figures

##@ One by one, for development

.PHONY: install infra-up migrate migration api-run consumer-run scheduler-run help
install: ## the virtual environment, and the servers that are missing
	@deploy/local/bootstrap.sh
	@$(STACK) install

infra-up: $(INSTALLED) ## start the servers alone
	@$(STACK) infra-up

migrate: $(INSTALLED) ## bring the database and the broker's topology up to date
	@$(STACK) migrate

migration: $(INSTALLED) ## a new migration, autogenerated: make migration m="what it does"
	@test -n "$(m)" || { echo 'say what it does: make migration m="..."' >&2; exit 1; }
	@$(PYTHON) -m alembic -c migrations/alembic.ini revision --autogenerate -m "$(m)"

api-run: $(INSTALLED) ## the API in this terminal
	@$(PYTHON) -m taskflow_api

consumer-run: $(INSTALLED) ## a consumer in this terminal
	@$(PYTHON) -m taskflow_consumer

scheduler-run: $(INSTALLED) ## a scheduler in this terminal
	@$(PYTHON) -m taskflow_scheduler

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
