#!/usr/bin/env bash
# Makes .venv with fastlt and what it needs; `install.sh dev` adds what tests and lint need. Called by make, does nothing
# when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-run}
inputs=$(cat pyproject.toml constraints.txt tools/install.sh | sha256sum)
up_to_date() { [ "$(cat ".venv/.installed-$1" 2>/dev/null)" = "$inputs" ]; }
if up_to_date "$kind"; then exit 0; fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "fastlt needs Python 3.11 or newer; set PYTHON=/path/to/one." >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "Python's venv is missing. On Debian and Ubuntu: sudo apt-get install -y python3-venv" >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)

# uv, which uses all cores, where pip can bring it; it then looks for packages where pip does.
pip_setting() { "${pip[@]}" config get ":env:.$1" 2>/dev/null || "${pip[@]}" config get "global.$1" 2>/dev/null; }
uv=(.venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode --index-strategy unsafe-best-match)
for setting in index-url extra-index-url find-links; do
  for value in $(pip_setting "$setting" || true); do uv+=("--$setting" "$value"); done
done
install() {
  SSL_CERT_FILE=${SSL_CERT_FILE:-$(pip_setting cert || true)} "${uv[@]}" --constraint constraints.txt "$@" 2>/dev/null ||
    "${pip[@]}" install --quiet --constraint constraints.txt "$@"
}

if ! up_to_date run; then
  echo "installing Python packages into .venv (a minute or two, 6 GB, most of which is PyTorch)"
  "${pip[@]}" install --quiet --constraint constraints.txt uv 2>/dev/null || true
  install --editable .
  echo "$inputs" >.venv/.installed-run
fi
[ "$kind" = dev ] || exit 0

echo "installing what tests and lint need"
install --editable ".[dev]"
# Not to be had for every system; tests of data.loader=dali are skipped without it.
install --editable ".[dali]" || echo "DALI cannot be installed here; its tests are skipped." >&2

# Our decoder is compiled against libjpeg-turbo's libjpeg, FFCV, which tests compare with, against OpenCV and TurboJPEG.
packages=(gcc g++ pkg-config libjpeg-dev libopencv-dev libturbojpeg0-dev)
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || packages+=(python3-dev)
if ! { command -v g++ && pkg-config --exists opencv4 libturbojpeg libjpeg && [ -f "$header" ]; } >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] && sudo= || sudo="sudo -n"
  if command -v apt-get >/dev/null && { [ -z "$sudo" ] || $sudo true 2>/dev/null; }; then
    $sudo apt-get update -qq
    # Ubuntu calls it libturbojpeg-dev.
    apt-cache show libturbojpeg0-dev >/dev/null 2>&1 || packages=("${packages[@]/libturbojpeg0-dev/libturbojpeg-dev}")
    echo "installing system packages: ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  fi
fi
# Without its dependencies: it names the OpenCV that needs a screen's libraries.
install setuptools wheel terminaltables pytorch_pfn_extras fastargs assertpy
install --no-build-isolation --no-deps ffcv==1.0.2 2>/dev/null ||
  echo "FFCV cannot be built here (it needs ${packages[*]}); tests that compare with it are skipped." >&2
echo "$inputs" >.venv/.installed-dev
