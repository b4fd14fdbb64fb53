#!/usr/bin/env bash
# Every way in which Wordkiln gets installed, each from a fresh copy of the sources in a fresh environment.
# `make check-install`; takes a few minutes. Prints one line per way and stops at the first that fails.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="$work/target" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
unset VIRTUAL_ENV PYO3_PYTHON
PATH=$(printf %s "$PATH" | tr ':' '\n' | grep -v "^$root/.venv" | paste -sd:)

check='import wordkiln, wordkiln._rust, wordkiln._kernels as k; assert k.current_isa() in k.available_isas()'
fresh() { # fresh NAME: a copy of the sources in $work/NAME and an environment in $work/NAME-env
    mkdir "$work/$1"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/$1")
    python3 -m venv "$work/$1-env"
}
works() { (cd / && "$work/$1-env/bin/python" -c "$check" && "$work/$1-env/bin/wordkiln" --help >/dev/null); echo "ok  $2"; }

fresh plain
"$work/plain-env/bin/pip" install "$work/plain"
works plain "pip install ."
test -z "$(find "$work/plain" -name '*.so' -o -name target)" && echo "ok  the source tree stays clean"
if ldd "$work"/plain-env/lib/python*/site-packages/wordkiln/_kernels*.so | grep -q torch; then
    echo "the kernels link torch"; exit 1
fi
echo "ok  the kernels link no torch"

fresh editable
"$work/editable-env/bin/pip" install -e "$work/editable"
works editable "pip install -e ."

fresh develop
"$work/develop-env/bin/pip" install 'maturin>=1.13,<2' cmake ninja pybind11
(cd "$work/develop" && PATH="$work/develop-env/bin:$PATH" VIRTUAL_ENV="$work/develop-env" maturin develop --quiet)
works develop "maturin develop"
sed -i 's/m.doc() = "/m.doc() = "edited: /' "$work/develop/csrc/bindings/module.cpp"
(cd "$work/develop" && PATH="$work/develop-env/bin:$PATH" VIRTUAL_ENV="$work/develop-env" maturin develop --quiet)
(cd / && "$work/develop-env/bin/python" -c 'import wordkiln._kernels as k; assert k.__doc__.startswith("edited: ")')
echo "ok  an edit in csrc/ is rebuilt"

fresh sdist
"$work/sdist-env/bin/pip" install build
"$work/sdist-env/bin/python" -m build "$work/sdist" --outdir "$work/dist" >/dev/null # sdist, then the wheel from the sdist
echo "ok  sdist -> wheel: $(cd "$work/dist" && stat -c '%n %s bytes' *.whl *.tar.gz | paste -sd,)"

# The wheel where there is no compiler: nothing on PATH but the environment itself and coreutils.
python3 -m venv "$work/wheel-env"
mkdir "$work/bin"
for tool in env uname; do ln -s "$(command -v $tool)" "$work/bin/"; done
env -i PATH="$work/wheel-env/bin:$work/bin" HOME="$HOME" PIP_QUIET=1 "$work/wheel-env/bin/pip" install "$work"/dist/*.whl
works wheel "the wheel without a compiler"
