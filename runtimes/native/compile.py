"""Compiles the operator library: ``python -m runtimes.native.compile FOLDER``.

A process of its own, because torch's build helper loads what it has built, and torch itself is
large. The library needs neither torch nor Python when it runs.
"""

import platform
import sys
from pathlib import Path

NAME = "optc_ops"
FOLDER = Path(__file__).parent
COMPILER_FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # Or gcc may move integers by way of MMX registers, which breaks the x87 unit of its callers.
    *(["-mno-mmx"] if platform.machine().lower() in ("x86_64", "amd64") else []),
)
LINKER_FLAGS = ("-Wl,--as-needed", "-lstdc++") if sys.platform == "linux" else ()
"""The C++ library comes first, or its symbols would be found in torch's libraries."""


def sources() -> list[Path]:
    """Files that are compiled, in a fixed order."""
    return sorted(FOLDER.glob("*.cpp"))


def main(folder: str) -> None:
    """Builds ``optc_ops.so`` in a folder."""
    from torch.utils import cpp_extension  # only here: a build is rare, torch is optional

    cpp_extension.load(
        NAME,
        [str(source) for source in sources()],
        extra_cflags=list(COMPILER_FLAGS),
        extra_ldflags=list(LINKER_FLAGS),
        build_directory=folder,
        is_python_module=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
