#!/bin/sh
# Makes the environment .venv, or renews it where the lock has changed: `sh setup.sh LOCK`, as `make setup` does.
# `sh setup.sh clean` removes it. PYTHON and TORCH are read from the environment.
#
# A new environment is made beside the old one and takes its place when it is whole; until then the old one works.
# Scripts in it find their Python by their own place (--relocatable), so that it can be moved, and the clone with it.
# Its file .ready holds what was asked for and the lock that was installed.
set -eu
cd "$(dirname "$0")"

cuda='^(nvidia-|cuda-|triton==)'  # what torch's build for CUDA brings along, and nothing else needs

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Where the environment lies: in .venv, unless this folder's path has a space or a comma. From such a path Flower's
# SuperLink cannot read the tables of its database; the environment lies in the cache then, and .venv is a link to it.
cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/motley/environments
case $(pwd -P) in
  *[[:space:],]*) home=$cache/$(pwd -P | cksum | cut -d ' ' -f 1) ;;
  *) home=.venv ;;
esac
new=$home.new.$$ old=$home.old.$$ tools=$home.tools.$$

# Tell whether .venv is a link that the user has made, not this script.
users_link() {
  [ -L .venv ] || return 1
  case $(readlink .venv) in "$cache"/*) return 1 ;; esac
}

# An interrupted set-up leaves its folders behind, named after its process; one that still runs keeps its own.
tidy() {
  for left in "$home".new.* "$home".old.* "$home".tools.*; do
    pid=${left##*.}
    if [ ! -e "$left" ] || { [ "$pid" != $$ ] && kill -0 "$pid" 2>/dev/null; }; then continue; fi
    case $left in *.old.*) [ -e "$home" ] || mv "$left" "$home" ;; esac
    rm -rf "$left"
  done
}

# At the end, whatever it is: the old environment is in its place, and nothing half made is left.
finish() {
  status=$?
  if [ ! -e "$home" ] && [ -e "$old" ]; then mv "$old" "$home"; fi
  rm -rf "$new" "$old" "$tools"
  if [ "$status" -ne 0 ] && [ -e .venv/.ready ]; then
    say "the environment could not be renewed; .venv is what it was and goes on working"
  fi
}

# What the environment is to be: the lock's name, torch's build and the lock itself.
recipe() { printf '%s %s\n' "$lock" "$torch"; cat "$lock"; }

find_uv() {
  if command -v uv >/dev/null; then uv=uv
  elif [ -x .venv/bin/uv ]; then uv=.venv/bin/uv
  else
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet --constraint "$lock" uv || fail "uv is missing, and pip could not bring it"
    uv=$tools/bin/uv
  fi
}

fill() {
  if [ "$torch" = cpu ]; then
    grep -v -E "$cuda" "$lock" >"$new/requirements.txt"
    set -- --torch-backend cpu --requirement "$new/requirements.txt"
  else
    set -- --requirement "$lock"
  fi
  "$uv" pip install --quiet --python "$new/bin/python" --compile-bytecode "$@" || fail "not all of $lock could be installed"
}

take_place() {
  if [ -e "$home" ]; then say ".venv is renewed; end a local SuperLink of the old one with \`make stop\`"; fi
  if [ -L "$home" ]; then rm "$home"; elif [ -e "$home" ]; then mv "$home" "$old"; fi
  mv "$new" "$home"
}

if [ "$1" = clean ]; then
  users_link || rm -rf .venv "$home"
  rm -rf "$home".new.* "$home".old.* "$home".tools.*
  exit 0
fi
if users_link; then
  [ -x .venv/bin/python ] || fail ".venv is a link to $(readlink .venv), where no environment is; make one there, or remove the link"
  say ".venv is a link, so it is yours: it is used as it is, and whether it has what $1 names is not looked at"
  exit 0
fi
case $home in
  .venv) ;;
  *[[:space:],]*) fail "neither this folder's path nor $cache may have a space or a comma; XDG_CACHE_HOME names another" ;;
  *) mkdir -p "$cache" ;;
esac
tidy
[ ! -e .venv ] || [ -e .venv/.ready ] || fail ".venv was not made by \`make setup\`; move it elsewhere, or remove it"

lock=$1 torch=${TORCH:-}
read -r had_lock had_torch 2>/dev/null <.venv/.ready || had_lock='' had_torch=''
# The developers' environment has all that users need, and a choice of torch's build stays made.
[ "$had_lock" != requirements-dev.lock ] || lock=$had_lock
torch=${torch:-${had_torch:-default}}
case $torch in default | cpu) ;; *) fail "TORCH=$torch: must be default (what the package index has) or cpu" ;; esac

if [ ! -e "$home/.ready" ] || ! recipe | cmp -s - "$home/.ready"; then
  python=$("${PYTHON:-python3}" -c 'import sys
print(sys.executable)
sys.exit(sys.version_info < (3, 11) and f"setup: Python 3.11 or newer is needed, and {sys.executable} is older")')
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' HUP TERM
  find_uv
  "$uv" venv --quiet --relocatable --python "$python" "$new"
  fill
  recipe >"$new/.ready"
  take_place
fi
if [ "$home" != .venv ] && [ "$(readlink .venv)" != "$home" ]; then
  rm -rf .venv  # of a clone that was moved here
  ln -s "$home" .venv
fi
