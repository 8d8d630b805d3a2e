"""That what can be compiled is compiled: an optional extension fails in silence."""

import shutil

import pytest

from l2l_opt.kernels import native

pytestmark = pytest.mark.slow


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_kernels_are_built_where_there_is_a_compiler():
    if native.status.startswith("compiled kernels are switched off"):
        pytest.skip(native.status)
    assert native.library is not None, native.status
    assert native.describe().startswith("compiled, ")
