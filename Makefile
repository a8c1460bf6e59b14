# make quickstart   the whole story on the embedded testbed      make test    the tests
# make check        lint, format, types, import arrows           make help    everything else

SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

OUTPUT ?= quickstart
SEED ?= 0
# Worker processes of the tests, further arguments for pytest or for a benchmark.
JOBS ?= 2
ARGS ?=

# A stamp is written only when its installation has succeeded, so an interrupted one is done again.
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

# The last TRL that has PPO, for comparison, beside the current one of $(VENV).
TRL112 := .venv-trl112
INSTALLED_TRL112 := $(TRL112)/.installed

# The oldest versions that pyproject.toml allows. BUT="torch" leaves a package free, where its build is not to be had.
OLDEST := .venv-oldest
INSTALLED_OLDEST := $(OLDEST)/.installed
BUT ?=

# Other people's tools that exports are tried in, each in an environment of its own.
PEERS := transformers4 hf openrlhf rewardbench vllm verl
REQUIREMENTS := benchmarks/interop/requirements

# Several test workers or data processes share the cores; each taking all of them would be slower.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help quickstart reproduce test test-slow check readme docs format clean test-oldest
.PHONY: bench-equal-learning bench-real bench-exact bench-export bench-ablation bench-score bench-serve bench-serve-clients bench-serve-faults bench-serve-grpo bench-rl-vllm bench-trl bench-read-at bench-reward-speed bench-scoring bench-reward-cuda bench-scaling bench-rl-testbed bench-trl-ppo bench-trl-ppo-parity bench-rl-cuda bench-coverage bench-front-coverage bench-length bench-one-score bench-help bench-last-layer bench-objectives bench-trees bench-certificate bench-prices bench-counterfactual bench-audit-scale bench-calibration bench-worlds bench-frozen bench-gpu-plans bench-edits bench-rl-worlds bench-pages bench-rmb bench-rmb-further

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

quickstart: $(INSTALLED)  ## Train and audit on the testbed, with policies: ARGS="--full"; OUTPUT=folder SEED=n
	$(BIN)/odin-rm quickstart --output "$(OUTPUT)" --seed "$(SEED)" --overwrite $(ARGS)

reproduce: $(INSTALLED)  ## The paper's figures on the testbed, 35 minutes; OUTPUT=folder SEED=n ARGS="--preset miniature"
	$(TEST_ENV) $(BIN)/odin-rm reproduce --output "$(if $(filter file,$(origin OUTPUT)),reproduced,$(OUTPUT))" --seed "$(SEED)" $(ARGS)

test: $(INSTALLED_TEST)  ## Run the tests; ARGS="-k name" JOBS=2
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-slow: $(INSTALLED_TEST)  ## Run the tests that take minutes
	$(TEST_ENV) $(BIN)/python -m pytest -m slow $(ARGS)

test-oldest: $(INSTALLED_OLDEST)  ## The tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	$(TEST_ENV) PYTHONPATH=src $(OLDEST)/bin/python -m pytest -n $(JOBS) $(ARGS)

check: $(INSTALLED_TEST)  ## Lint, format, types and import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

readme:  ## Do what the README says in a fresh clone and an empty environment, 15 minutes; ARGS="--folder DIR"
	$(PYTHON) .ci/readme.py $(ARGS)

docs: $(INSTALLED_TEST)  ## Build the docs site into site/, without a network
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src $(BIN)/mkdocs build --quiet

format: $(INSTALLED_TEST)  ## Format the code and sort the imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/python .ci/wrap_docs.py *.md docs/*.md

.PHONY: interop
interop: $(INSTALLED_TEST)  ## One text, one score in real peer packages, 20 to 40 minutes; ARGS="--tools trl --models qwen"
	@for peer in $(PEERS); do $(MAKE) --no-print-directory .venv-interop-$$peer/.installed \
		|| echo "interop: the environment '$$peer' cannot be installed here, so its tools are skipped"; done
	$(TEST_ENV) $(BIN)/python -m benchmarks.interop $(ARGS)

bench-real: $(INSTALLED_TEST)  ## Vanilla and ODIN on real preferences; ARGS="--data DIR"
	$(BIN)/python benchmarks/real_preferences.py $(ARGS)

bench-exact: $(INSTALLED_TEST)  ## How far the gradient depends on how a batch is split
	$(BIN)/python benchmarks/exactness.py $(ARGS)

bench-rivals: $(INSTALLED_TEST)  ## All objectives on frozen features of real pairs; ARGS="--data DIR --output DIR"
	$(BIN)/python -m benchmarks.rival_arms $(ARGS)

bench-rival-batching: $(INSTALLED_TEST)  ## Gradients of the authors' batching beside the exact one; ARGS="--data DIR"
	$(BIN)/python -m benchmarks.rival_batching $(ARGS)

bench-export: $(INSTALLED_TEST)  ## How far an exported quality head is from the original
	$(BIN)/python -m benchmarks.export_parity $(ARGS)

bench-ablation: $(INSTALLED_TEST)  ## Exact batch, head normalisation, orthogonality: with and without
	$(BIN)/python benchmarks/ablation.py $(ARGS)

bench-serve: $(INSTALLED_TEST)  ## Load on odin-rm serve beside in-process scoring and FastAPI + pipeline
	$(TEST_ENV) $(BIN)/python -m benchmarks.serve_load $(ARGS)

bench-serve-clients: $(INSTALLED_TEST)  ## Real clients at odin-rm serve; ARGS="--environments . --clients_python PYTHON"
	$(TEST_ENV) $(BIN)/python -m benchmarks.serve_clients $(ARGS)

bench-serve-faults: $(INSTALLED_TEST)  ## Bad requests, huge bodies, slow senders, no memory and kill -9 at odin-rm serve
	$(TEST_ENV) $(BIN)/python -m benchmarks.serve_faults $(ARGS)

bench-serve-grpo: $(INSTALLED_TEST)  ## A GRPO run of TRL with the reward in process and over HTTP
	$(TEST_ENV) $(BIN)/python -m benchmarks.serve_grpo $(ARGS)

bench-rl-vllm: $(INSTALLED_TEST)  ## Our vLLM engine beside the transformers engine, against the real package
	$(TEST_ENV) $(BIN)/python -m benchmarks.rl_vllm $(ARGS)

bench-score: $(INSTALLED_TEST)  ## Speed and memory of odin-rm score
	$(BIN)/python benchmarks/score_rows.py $(ARGS)

bench-worlds: $(INSTALLED_TEST)  ## Agreement with the truth in the testbed's named worlds, by objective
	$(BIN)/python -m benchmarks.worlds $(ARGS)

bench-rmb: $(INSTALLED_TEST)  ## Objectives on RMB's pairs and frozen features, audited on ten sets; ARGS="--data DIR --output DIR"
	$(BIN)/python -m benchmarks.rmb_frozen $(ARGS)

bench-rmb-further: $(INSTALLED_TEST)  ## RRM's rows, Rc-BT's pairs and edits in training on RMB's pairs; ARGS as for bench-rmb
	$(BIN)/python -m benchmarks.rmb_further $(ARGS)

bench-edits: $(INSTALLED_TEST)  ## Edits in training in a world that pays for lists and flattery
	$(TEST_ENV) $(BIN)/python -m benchmarks.edit_worlds $(ARGS)

bench-rl-worlds: $(INSTALLED_TEST)  ## Policies on rewards of three objectives in the testbed's worlds, fronts
	$(TEST_ENV) $(BIN)/python -m benchmarks.rl_worlds $(ARGS)

bench-frozen: $(INSTALLED_TEST)  ## Objectives on frozen features of real pairs, cross-fitted; ARGS="--data DIR"
	$(BIN)/python -m benchmarks.frozen_features $(ARGS)

bench-trl: $(INSTALLED_TEST)  ## Speed side by side with TRL's RewardTrainer; ARGS="--data FILE"
	$(BIN)/python -m benchmarks.compare_trl $(ARGS)

bench-read-at: $(INSTALLED_TEST)  ## Reward read at the end of the turn or of the template; ARGS="--data DIR"
	$(BIN)/python -m benchmarks.read_at $(ARGS)

bench-reward-speed: $(INSTALLED_TEST)  ## Reward training beside TRL's at its best settings; ARGS="--data DIR"
	$(BIN)/python -m benchmarks.reward_speed $(ARGS)

bench-scoring: $(INSTALLED_TEST)  ## Scoring best-of-16 beside transformers' pipeline; ARGS="--data DIR"
	$(BIN)/python -m benchmarks.scoring_speed $(ARGS)

bench-reward-cuda: $(INSTALLED_TEST)  ## Reward training beside TRL's on a CUDA GPU; ARGS="--data FILE --output DIR"
	$(BIN)/python -m benchmarks.reward_cuda $(ARGS)

bench-scaling: $(INSTALLED_TEST)  ## Reward training by size of the data, prompts, processes; ARGS="--parts pairs million"
	$(BIN)/python -m benchmarks.scaling $(ARGS)

bench-rl-testbed: $(INSTALLED_TEST)  ## Policies under each reward on the testbed, fronts; ARGS="--seeds 0 1"
	$(TEST_ENV) $(BIN)/python -m benchmarks.rl_testbed $(ARGS)

bench-trl-ppo: $(INSTALLED_TRL112)  ## Speed side by side with TRL 1.12.0's PPOTrainer, in .venv-trl112
	PYTHONPATH=src TRL_EXPERIMENTAL_SILENCE=1 $(TRL112)/bin/python -m benchmarks.compare_trl_ppo $(ARGS)

bench-rl-cuda: $(INSTALLED_TEST)  ## PPO and ReMax in bf16 on a CUDA GPU: breakdown and peak memory
	$(BIN)/python -m benchmarks.rl_cuda $(ARGS)

bench-trl-ppo-parity: $(INSTALLED_TRL112)  ## Our PPO mathematics against TRL 1.12.0's PPOTrainer, in .venv-trl112
	PYTHONPATH=src TRL_EXPERIMENTAL_SILENCE=1 $(TRL112)/bin/python benchmarks/trl_ppo_parity.py $(ARGS)

bench-coverage: $(INSTALLED_TEST)  ## How often the intervals of win-rate hold the truth
	$(BIN)/python benchmarks/coverage.py $(ARGS)

bench-one-score: $(INSTALLED_TEST)  ## One text, one score: pad tokens x families x ways of reading; ARGS="--part foreign"
	$(BIN)/python -m benchmarks.one_score $(ARGS)

bench-attributes: $(INSTALLED_TEST)  ## Responses a second whose attributes are measured
	$(TEST_ENV) $(BIN)/python -m benchmarks.attribute_speed $(ARGS)

bench-certificate: $(INSTALLED_TEST)  ## Verdicts on reward models whose truth is known, 10 minutes; ARGS="--worlds 10"
	$(TEST_ENV) $(BIN)/python -m benchmarks.certificate_study $(ARGS)

bench-prices: $(INSTALLED_TEST)  ## Price lists in 200 worlds with known prices
	$(TEST_ENV) $(BIN)/python -m benchmarks.price_worlds $(ARGS)

bench-counterfactual: $(INSTALLED_TEST)  ## MiniLM rewards on rewrites of the same content; ARGS="--data DIR"
	$(TEST_ENV) $(BIN)/python -m benchmarks.counterfactual_skew $(ARGS)

bench-audit-scale: $(INSTALLED_TEST)  ## CPU seconds and memory of an audit of 10,000 and 100,000 stored scores
	$(TEST_ENV) $(BIN)/python -m benchmarks.audit_scale $(ARGS)

bench-length-curves: $(INSTALLED_TEST)  ## Information that a curve of length alone has, which should be none
	$(TEST_ENV) $(BIN)/python -m benchmarks.length_curves $(ARGS)

bench-objectives: $(INSTALLED_TEST)  ## Time of a step of each objective beside plain Bradley-Terry, heads beside fine-tuning; ARGS="--data DIR"
	$(TEST_ENV) $(BIN)/python -m benchmarks.objective_speed $(ARGS)

bench-last-layer: $(INSTALLED_TEST)  ## What the last layer at the read tokens alone gains in a deep model
	$(BIN)/python -m benchmarks.last_layer $(ARGS)

bench-calibration: $(INSTALLED_TEST)  ## The dial on real rewards beside LOESS, zero and a penalty; ARGS="--data DIR"
	$(TEST_ENV) $(BIN)/python -m benchmarks.calibration $(ARGS)

bench-gpu-plans: $(INSTALLED_TEST)  ## Memory of reward training on one 80 GB card, computed; ARGS="--data FILE"
	$(TEST_ENV) $(BIN)/python -m benchmarks.gpu_plans $(ARGS)

bench-pages: $(INSTALLED_TEST)  ## Pictures of every page in Chromium, faults counted; ARGS="--quickstart DIR --output DIR"
	$(TEST_ENV) $(BIN)/python -m benchmarks.page_shots $(ARGS)

bench-help: $(INSTALLED_TEST)  ## CPU time and memory of --help of every command
	$(BIN)/python -m benchmarks.help_cost $(ARGS)

bench-trees: $(INSTALLED_TEST)  ## How far trees and packed rows are from padded batches, by family and kernel
	$(BIN)/python -m benchmarks.tree_equality $(ARGS)

bench-front-coverage: $(INSTALLED_TEST)  ## How often the intervals of fronts hold the truth
	$(BIN)/python benchmarks/front_coverage.py $(ARGS)

bench-length: $(INSTALLED_TEST)  ## Length control on annotation files; ARGS="--data DIR"
	$(BIN)/python benchmarks/length_control.py $(ARGS)

bench-equal-learning: $(INSTALLED_TEST)  ## What is learnt in trees, packed rows and padded batches; ARGS="--data FILE"
	$(BIN)/python -m benchmarks.equal_learning $(ARGS)

clean:  ## Delete caches and build products (not the environment, not your runs)
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,.)

$(INSTALLED_TEST): pyproject.toml constraints.txt
	$(call install,'.[test]')
	@touch $(INSTALLED)

$(INSTALLED_TRL112): constraints.txt
	$(PYTHON) -m venv --clear $(TRL112)
	@echo "Installing TRL 1.12.0 into $(TRL112) (once; some minutes)"
	@$(TRL112)/bin/python -m pip install --disable-pip-version-check -q -c <(grep -v '^trl=' constraints.txt) \
		torch==2.13.0 trl==1.12.0 pandas rich
	@touch $@

$(INSTALLED_OLDEST): pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	@echo "Installing the oldest versions into $(OLDEST) (once; some minutes)"
	@$(PYTHON) .ci/oldest_versions.py --but $(BUT) > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install --disable-pip-version-check -q -c $(OLDEST)/constraints.txt -e '.[test]'
	@touch $@

# NAME.nodeps.txt: packages without what they ask for. NAME.remove.txt: what is taken out again.
.venv-interop-%/.installed: $(REQUIREMENTS)/%.txt
	@$(PYTHON) -m venv --clear .venv-interop-$*
	@echo "Installing $(REQUIREMENTS)/$*.txt into .venv-interop-$* (once; some minutes)"
	@pip="$(@D)/bin/python -m pip --disable-pip-version-check -q"; $$pip install -r $< \
		&& { [ ! -f $(REQUIREMENTS)/$*.nodeps.txt ] || $$pip install --no-deps -r $(REQUIREMENTS)/$*.nodeps.txt; } \
		&& { [ ! -f $(REQUIREMENTS)/$*.remove.txt ] || $$pip uninstall -y -r $(REQUIREMENTS)/$*.remove.txt; }
	@touch $@

# $(1): what to install. Makes the environment first where there is none that works.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "odin-rm needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing into $(VENV) (once; some minutes)"
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e $(1) \
		| sed -E -n -e 's/ \(from .*//' -e '/^(Collecting|Successfully built)/p'
	@touch $@
endef
