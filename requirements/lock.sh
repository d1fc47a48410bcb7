#!/usr/bin/env bash
# Writes the lock files: names, versions and hashes, the same set on Python 3.11 to 3.13. Needs uv.
#   dev.txt       everything on the controller: ansible, linters, tests, lab, the service itself
#   voicebot.txt  what a release of the service on a Spark consists of
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest
         --generate-hashes --no-annotate --no-header)
"${compile[@]}" pyproject.toml --group controller --group lab --group test --output-file requirements/dev.txt
"${compile[@]}" pyproject.toml --constraint requirements/dev.txt --output-file requirements/voicebot.txt
