"""The compiled kernels; all else is in setup.cfg. Optional: without GCC or Clang the package works on PyTorch alone."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "l2l_opt.kernels._native",
            sources=sorted(glob("l2l_opt/kernels/native/*.cpp")),
            depends=sorted(glob("l2l_opt/kernels/native/*.h")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-Wno-psabi",
                "-Wno-uninitialized",
                "-Wno-maybe-uninitialized",
                "-pthread",
            ],
            optional=True,
            py_limited_api=True,  # ctypes loads them: no word of Python is in them, so that one wheel serves all
        )
    ]
)
