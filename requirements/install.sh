#!/usr/bin/env bash
# Makes .venv with everything of requirements/dev.txt, by hash, and the voicebot itself from src.
# Python 3.11, 3.12 or 3.13; on Debian and Ubuntu the missing python3-venv is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(tr : "\n" <<<"$PATH" | grep -vxF "$PWD/.venv/bin" | paste -sd:) # that Python goes

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
  if command -v "$candidate" >/dev/null && suits "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "No Python 3.11, 3.12 or 3.13 found. Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  echo "Installing python3-venv (apt)"
  apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv
fi

echo "Making .venv with $("$python" --version) and $(grep -c == requirements/dev.txt) locked packages (1 to 3 minutes)"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: -r requirements/dev.txt
# The service itself: a path file, so that no build back end has to be fetched.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$PWD/src" > "$site/spark-voicebot.pth"
printf '#!%s/.venv/bin/python\nfrom voicebot.cli import main\n\nraise SystemExit(main())\n' "$PWD" > .venv/bin/voicebot
chmod 755 .venv/bin/voicebot
touch .venv/.installed
