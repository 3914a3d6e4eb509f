#!/usr/bin/env bash
# Renew the pinned lists from pyproject.toml: requirements/lock.sh [cpu|gpu] [uv options, as --upgrade-package numpy].
# The lists hold no index address. A CPU build of torch is found as in install.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
platforms=(cpu gpu)
if [ "${1:-}" = cpu ] || [ "${1:-}" = gpu ]; then platforms=("$1"); shift; fi
for platform in "${platforms[@]}"; do
  links=()
  if [ "$platform" = cpu ]; then
    if [ -n "${PIP_FIND_LINKS:-}" ]; then links=(--find-links "$PIP_FIND_LINKS"); else links=(--torch-backend cpu); fi
  fi
  .venv/bin/uv pip compile pyproject.toml --extra "$platform" --extra dev \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --override "requirements/overrides-$platform.txt" \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "requirements/lock.sh $platform" \
    "${links[@]}" "$@" -o "requirements/$platform.txt" >/dev/null
  printf 'requirements/%s.txt: %s packages\n' "$platform" "$(grep -c '==' "requirements/$platform.txt")"
done
