# make demo       all set-up, then a question spoken by a human is answered by a virtual Spark
# make test       all set-up, then every check once (CI runs this)
# make test-long  the same with full counts and durations; writes reports/test-long-{host,fleet,voice}.json, each a target too
# make clean      takes the lab down and removes what make made (caches outside the clone stay: make purge)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lab demo site smoke lint unit molecule e2e lock clean purge \
	test test-long test-long-host test-long-fleet test-long-voice

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_FORCE_COLOR ?= $(if $(MAKE_TERMOUT),true,false)
HOSTS ?= 1
PYTEST := .venv/bin/python -m pytest

help:
	@sed -n 's/^# //p' Makefile

setup: .venv/.installed

.venv/.installed: requirements/dev.txt requirements/install.sh pyproject.toml
	requirements/install.sh

lab: setup
	ansible-playbook playbooks/lab.yml -e lab_hosts=$(HOSTS)

site: lab
	ansible-playbook -i inventory/lab site.yml

demo: site
	.venv/bin/python -m tests.demo

smoke: setup
	ansible-playbook -i inventory/lab playbooks/smoke.yml

lint: setup
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	ansible-lint

unit: setup
	.venv/bin/python -m tests.lab deps
	$(PYTEST) tests/unit tests/lab -m "not lab and not long" -n auto --dist loadfile --report reports/unit.json

molecule: lab
	rm -rf reports/molecule
	for scenario in host engine voicebot; do \
		molecule reset --scenario-name $$scenario; \
		molecule test --scenario-name $$scenario --destroy never; \
	done

e2e: setup
	$(PYTEST) tests/integration tests/lab tests/e2e -m "lab and not long" --report reports/e2e.json

test: lint unit molecule e2e
	.venv/bin/python -m tests.report reports/unit.json reports/e2e.json

# Each part is a few hours' worth of evidence of its own, and can be run alone.
FLEET := $(wildcard tests/integration/gateway tests/integration/rollout tests/integration/carry \
	$(addprefix tests/e2e/test_9_,$(addsuffix .py,rollout fleet gateway carry daytwo)))
VOICE := tests/integration/voicebot tests/unit/voicebot

test-long: lint molecule test-long-host test-long-fleet test-long-voice

test-long-host: setup
	$(PYTEST) tests $(addprefix --ignore=,$(FLEET) $(VOICE)) --report reports/$@.json
	.venv/bin/python -m tests.report reports/$@.json

test-long-fleet: setup
	$(PYTEST) $(FLEET) --report reports/$@.json
	.venv/bin/python -m tests.report reports/$@.json

test-long-voice: setup
	$(PYTEST) $(VOICE) --report reports/$@.json
	.venv/bin/python -m tests.report reports/$@.json

lock:
	requirements/lock.sh

clean:
	if [ -d .lab ] && [ -x .venv/bin/ansible-playbook ]; then ansible-playbook playbooks/lab.yml -e lab_state=absent; fi
	rm -rf .venv .lab .ansible .molecule .hypothesis reports build dist out .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

purge: clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/spark-voicebot"
