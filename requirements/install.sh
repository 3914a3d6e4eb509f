#!/usr/bin/env bash
# Make .venv from the pinned list of this platform. Usage: requirements/install.sh cpu|gpu
# Package sources: whatever pip is set up to use. A CPU build of torch comes from a local wheel folder
# (PIP_FIND_LINKS) when one lies there, else from PyTorch's own CPU index.
set -euo pipefail
cd "$(dirname "$0")/.."
platform=${1:?usage: requirements/install.sh cpu|gpu}
uv_version=0.13.9

fail() { printf 'raymill: %s\n' "$*" >&2; exit 1; }

python=
for candidate in "${PYTHON:-}" python3.11 python3 python; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "Python 3.11 is needed; install it, or name it: make PYTHON=/path/to/python3.11"
command -v c++ >/dev/null || command -v g++ >/dev/null || fail "a C++ compiler is needed to build fasttext; install g++"

[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "python -m venv failed; on Debian: apt-get install python3-venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"

# uv does not read pip's settings: pass them on.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="$PIP_EXTRA_INDEX_URL"
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="$PIP_FIND_LINKS"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"

torch=()
if [ "$platform" = cpu ]; then
  version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements/cpu.txt)
  # shellcheck disable=SC2086  # several folders may stand in PIP_FIND_LINKS
  if ! ls ${PIP_FIND_LINKS:-/nonexistent} 2>/dev/null | grep -q "^torch-${version%%+*}"; then torch=(--torch-backend cpu); fi
fi

# --no-deps: the list is complete, and some of its packages name others that must not be installed (overrides-*.txt).
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps "${torch[@]}" -r "requirements/$platform.txt"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
