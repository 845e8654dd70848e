#!/usr/bin/env bash
# Make the environment in $1 exactly as requirements-dev.txt locks it, with kubeway itself linked in.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

good() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

python=
for name in ${PYTHON:-python3.11 python3}; do
    if good "$name"; then python=$name; break; fi
done
if [ -z "$python" ]; then
    echo "kubeway needs Python 3.11 or newer; tried: ${PYTHON:-python3.11 python3}." \
         "Set PYTHON to one that is." >&2
    exit 1
fi
if ! can_venv "$python"; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -q -y --no-install-recommends python3-venv
    fi
    if ! can_venv "$python"; then
        echo "$python has no venv module; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi

"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: \
    -r requirements-dev.txt
# The build backend is in the lock; the package is linked, not copied, so an edit is at once in force.
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
echo "$venv: $("$venv/bin/python" --version), $("$venv/bin/python" -m pip list --format=freeze | wc -l) packages"
