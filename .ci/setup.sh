#!/usr/bin/env bash
# Make the environment in .venv, once for each state of settings.ini, setup.py and pyproject.toml.
# .venv/.done holds that state and this folder; it is written last, so a failed install leaves none.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
stamp=.venv/.done
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
  echo "setup: $*" >&2
  exit 1
}

points_here() { cat .venv/lib/python3*/site-packages/__editable__*mvl_bench* 2>/dev/null | grep -qF "'$here/mvl_bench'"; }

# The environment was made for another folder: its scripts name the old place in their first line.
follow_the_move() {
  echo "The checkout moved: pointing .venv at $here."
  .venv/bin/python - "$1/.venv" "$here/.venv" <<'PY'
import sys
from pathlib import Path

old, new = (text.encode() for text in sys.argv[1:])
for path in [Path(".venv/pyvenv.cfg"), *Path(".venv/bin").iterdir()]:
    if path.is_file() and not path.is_symlink() and old in (data := path.read_bytes()):
        path.write_bytes(data.replace(old, new))
PY
}

key=$(cat settings.ini setup.py pyproject.toml | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12)
was='' where=''
if [ -x .venv/bin/python ] && [ -f "$stamp" ]; then
  { read -r was && read -r where; } <"$stamp" || where=''
fi
if [ "$was" = "$key" ] && [ -n "$where" ]; then
  [ "$where" = "$here" ] && points_here && exit 0
  rm -f "$stamp"
  [ "$where" = "$here" ] || follow_the_move "$where"
  .venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e . || fail "pip could not point .venv here"
else
  need=$(sed -n 's/^min_python *= *//p' settings.ini)
  python=''
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    # the base interpreter, because this may be run from inside the .venv that is about to go
    python=$("$name" -c '
import sys
if sys.version_info >= tuple(map(int, sys.argv[1].split("."))):
    print(sys._base_executable)' "$need" 2>/dev/null) && [ -n "$python" ] && break
  done
  [ -n "$python" ] || fail "needs Python $need or newer; here: $("${PYTHON:-python3}" --version 2>&1 | tail -n 1)"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module (Debian, Ubuntu: apt-get install python3-venv)"
  echo "Making the environment in .venv (first time: about 3 minutes and 6 GB) ..."
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install -qq -e '.[dev]' || fail "pip could not install the requirements; what it said stands above"
fi
printf '%s\n%s\n' "$key" "$here" >"$stamp"
echo "The environment is ready after $SECONDS s."
