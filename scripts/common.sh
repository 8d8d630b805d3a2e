# Shared by scripts/demo and scripts/test: a .venv with this package in it, from nothing but Python 3.11 or newer.

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Error: Python must be 3.11 or newer; found none, install it or name it by PYTHON=" >&2
    return 1
}

# make_venv WHAT: installs WHAT (".", "-e .[dev]") unless what it depends on is as it was when last installed.
# TORCH_INDEX, where it is set, names an index that has other wheels of torch than PyPI, such as CPU wheels.
make_venv() {
    local python stamp
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    stamp=$(echo "$*" | cat - constraints.txt setup.cfg setup.py pyproject.toml l2l_opt/kernels/native/* | cksum)
    if [ "$(cat .venv/l2l_opt.stamp 2>/dev/null)" != "$stamp" ]; then
        echo "installing (torch and its companions; minutes on a first run)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
            ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@"
        echo "$stamp" >.venv/l2l_opt.stamp
    fi
}
