#!/usr/bin/env bash
# Makes .venv with fastlt and everything it needs; called by make, does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
inputs=$(cat setup.py constraints.txt tools/install.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$inputs" ]; then exit 0; fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "fastlt needs Python 3.11 or newer; set PYTHON=/path/to/one." >&2
  exit 1
fi

# FFCV compiles against OpenCV and libturbojpeg, our decoder against libjpeg (libjpeg-turbo's); a virtual environment needs ensurepip.
packages=()
pkg-config --exists opencv4 libturbojpeg libjpeg 2>/dev/null ||
  packages+=(pkg-config libopencv-dev libturbojpeg0-dev libjpeg-dev)
command -v g++ >/dev/null || packages+=(g++)
"$python" -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || packages+=(python3-dev)
if [ ${#packages[@]} -gt 0 ]; then
  # Ubuntu calls it libturbojpeg-dev, Debian libturbojpeg0-dev.
  if apt-cache show libturbojpeg0-dev >/dev/null 2>&1; then turbojpeg=libturbojpeg0-dev; else turbojpeg=libturbojpeg-dev; fi
  [ "$(id -u)" = 0 ] && sudo= || sudo="sudo -n"
  if command -v apt-get >/dev/null && { [ -z "$sudo" ] || $sudo true 2>/dev/null; }; then
    $sudo apt-get update -qq
    if apt-cache show libturbojpeg0-dev >/dev/null 2>&1; then turbojpeg=libturbojpeg0-dev; fi
    echo "installing system packages: ${packages[*]/libturbojpeg0-dev/$turbojpeg}"
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends \
      "${packages[@]/libturbojpeg0-dev/$turbojpeg}" >/dev/null
  else
    echo "System packages are missing. Type this, then the same make command again:" >&2
    echo "  sudo apt-get install -y --no-install-recommends ${packages[*]/libturbojpeg0-dev/$turbojpeg}" >&2
    exit 1
  fi
fi

"$python" -m venv .venv
echo "installing Python packages into .venv (about three minutes, 7.3 GB)"
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt)
"${pip[@]}" pip setuptools wheel
"${pip[@]}" --editable ".[dev,data]"
# After the others: FFCV's build looks at what is installed.
"${pip[@]}" --no-build-isolation --editable ".[ffcv]"
# Not to be had for every system; without it data.loader=dali is not there.
"${pip[@]}" --editable ".[dali]" || echo "DALI cannot be installed here; all else works." >&2
echo "$inputs" >"$stamp"
