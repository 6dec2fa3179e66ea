#!/usr/bin/env bash
# Make the virtual environment in which `make demo` and `make test` run.
#
#   scripts/setup.sh            what running and training need
#   scripts/setup.sh --dev      the same, and the tools of `make test`
#   scripts/setup.sh --aot      those of --dev, and what compiles for GPUs that are not there
#   scripts/setup.sh --cluster  those of --dev, and Ray
#   scripts/setup.sh --docs     only what `make docs` needs: no JAX
#   scripts/setup.sh --plan     print what would be used and install nothing
#
# Environment variables:
#   PYTHON         the interpreter (default: the best Python >= 3.11 on the PATH)
#   VENV           the folder of the environment (default: .venv)
#   MIRAGE_BUILD   cpu or cuda12 (default: cuda12 where an NVIDIA driver is found)
#
# A stamp in the environment holds a hash of everything it was made from, so a second
# run is quick, needs no network, and installs again only after a change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}

die() {
  echo "setup: $*" >&2
  exit 1
}

version_of() { # prints "3.11.7", or nothing where the command is no working Python
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}

is_new_enough() { # 3.11 or newer
  local major minor
  IFS=. read -r major minor _ <<<"$1"
  ((major > 3 || (major == 3 && minor >= 11)))
}

# Sets python and version: python3 where it is of a tested version, else the best found.
find_python() {
  local candidate found too_old=""
  local names=(python3 python3.12 python3.11 python3.13 python3.14 python)
  if [[ -n ${PYTHON:-} ]]; then
    names=("$PYTHON")
  fi
  python="" version=""
  for candidate in "${names[@]}"; do
    found=$(version_of "$candidate")
    if [[ $found == 3.11.* || $found == 3.12.* ]]; then
      python=$candidate version=$found
      return
    elif [[ -z $found ]]; then
      continue
    elif ! is_new_enough "$found"; then
      too_old="$candidate is $found"
    elif [[ -z $python ]]; then
      python=$candidate version=$found
    fi
  done
  if [[ -z $python ]]; then
    die "Python 3.11 or 3.12 is needed (${too_old:-${PYTHON:-python3} is not a Python});" \
      "install one with: sudo apt-get install python3.11 python3.11-venv" \
      "or name one with: make PYTHON=/path/to/python3.11"
  fi
  echo "setup: Python $version is untested here; 3.11 and 3.12 are tested" >&2
}

find_build() {
  build=${MIRAGE_BUILD:-}
  if [[ -z $build ]]; then
    build=cpu
    if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi -L 2>/dev/null | grep -q GPU; then
      build=cuda12
    fi
  fi
  case $build in
    cpu) requirements=requirements-cpu.txt ;;
    cuda12) requirements=requirements.txt ;;
    *) die "MIRAGE_BUILD=$build is unknown; use cpu or cuda12" ;;
  esac
}

# The hash of all that decides what an environment holds.
key_of() {
  { echo "$version $build" && cat "$@"; } | sha256sum | cut -d ' ' -f 1
}

pip_install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check "$@" ||
    die "pip could not install ${*: -1} (its message is above);" \
      "check the network, PIP_INDEX_URL and the free space, then run this again"
}

make_venv() {
  if [[ $(version_of "$venv/bin/python") == "$version" ]]; then
    return
  fi
  echo "setup: making $venv with Python $version"
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear "$venv" || die "could not make the environment $venv"
  elif "$python" -m pip --version >/dev/null 2>&1; then
    # Debian and Ubuntu keep ensurepip in a package of its own; any pip will do instead.
    "$python" -m venv --clear --without-pip "$venv" &&
      "$python" -m pip --python "$venv/bin/python" install pip ||
      die "could not make the environment $venv"
  else
    die "$python lacks the venv module;" \
      "install it with: sudo apt-get install python${version%.*}-venv"
  fi
}

# install STAMP FILES COMMAND...: run the command unless the stamp says it was done.
install_once() {
  local stamp=$1 key=$2
  shift 2
  if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
    return
  fi
  rm -f "$stamp"
  "$@"
  echo "$key" >"$stamp"
}

install_run() {
  echo "setup: installing the $build build into $venv"
  pip_install -r "$requirements"
  pip_install --no-deps -r requirements-nodeps.txt
}

install_dev() {
  pip_install -r requirements-dev.txt
}

install_aot() {
  pip_install -r requirements-aot.txt
}

# As a user gets it; the extra's versions are in pyproject.toml.
install_cluster() {
  pip_install -e '.[cluster]'
}

install_docs() {
  pip_install -r requirements-docs.txt
}

find_python
find_build
if [[ ${1:-} == --plan ]]; then
  echo "python=$python version=$version build=$build requirements=$requirements venv=$venv"
  exit 0
fi

# Installing is never done twice at once, for example by two terminals.
exec 9<scripts/setup.sh
flock 9

# Settings that send packages elsewhere than into the environment would break it.
export PIP_USER=0
unset PIP_TARGET PIP_PREFIX

make_venv
if [[ ${1:-} == --docs ]]; then
  install_once "$venv/.stamp-docs" "$(key_of requirements-docs.txt)" install_docs
  exit 0
fi

run_key=$(key_of requirements*.txt)
install_once "$venv/.stamp-run" "$run_key" install_run
if [[ ${1:-} == --dev || ${1:-} == --aot || ${1:-} == --cluster ]]; then
  install_once "$venv/.stamp-dev" "$run_key" install_dev
fi
if [[ ${1:-} == --aot ]]; then
  install_once "$venv/.stamp-aot" "$run_key" install_aot
fi
if [[ ${1:-} == --cluster ]]; then
  cluster_key=$(key_of requirements*.txt pyproject.toml)
  install_once "$venv/.stamp-cluster" "$cluster_key" install_cluster
fi
