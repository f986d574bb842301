# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    the loan story, with a report in out/
#   make loop    drift, alarm, retrain and rollout on real loans, with a report in out/
#   make triage  a support desk on real complaints, with a report in out/; needs rabbitmq-server
#   make maintenance  machines watched, stopped for repair with approval; report in out/
#   make test    everything the tests need, then the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo loop triage maintenance soak chaos test test-fast lint bench install clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "torch>=2.8,<2.14" uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e ".[test,lint]" || \
		$(BIN)/python -m pip install --quiet -e ".[test,lint]"
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/aios demo

loop: install
	$(BIN)/aios demo --loop

triage: install
	$(BIN)/python -m apps.support_triage

maintenance: install
	$(BIN)/python -m apps.predictive_maintenance

# Memory in huge pages: where a virtual machine gets its memory page by page, `import ray.serve` takes
# 2.8 s instead of 4.5, and a runtime starts with 52 s of CPU instead of 77 to 108.
test: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
test: export PYTHONMALLOC = malloc
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test-fast: install
	$(BIN)/python -m pytest tests/house tests/unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: install
	$(BIN)/python -m benchmarks.soak

chaos: install
	CHAOS_ROLLOUTS=20 CHAOS_RUN_KILLS=28 CHAOS_RUN_WRITES=1 $(BIN)/python -m pytest \
		tests/integration/test_rollouts.py tests/integration/test_run_kills.py -k kill
	$(BIN)/python -m tests.chaos.agent_kills --kills 500
	$(BIN)/python -m tests.chaos.flow_kills --kills 500
	$(BIN)/python -m tests.chaos.event_kills --events 100000 --kills 20

bench: install
	$(BIN)/aios bench all --short

clean:
	rm -rf $(VENV) out build dist
