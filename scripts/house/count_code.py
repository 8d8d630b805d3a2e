"""Count the lines of code of the package, by room: neither blank, nor comment, nor docstring.

python -m scripts.house.count_code        # of git's files in l2l_opt; C++ counts too
"""

import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def python_lines(text: str) -> int:
    """Lines of Python that hold a token other than a comment or a string that stands alone."""
    alone: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            alone |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - alone)


def cpp_lines(text: str) -> int:
    """Lines of C++ that hold anything outside comments."""
    code = re.sub(r"//.*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.S))
    return sum(bool(line.strip()) for line in code.splitlines())


COUNTERS = {".py": python_lines, ".cpp": cpp_lines, ".h": cpp_lines}


def count(root: Path = ROOT) -> Counter[str]:
    """Lines by room; a file beside the rooms counts to ``l2l_opt``."""
    rooms: Counter[str] = Counter()
    listed = subprocess.run(["git", "ls-files", "l2l_opt"], cwd=root, capture_output=True, text=True, check=True)
    for name in map(Path, listed.stdout.splitlines()):
        if name.suffix in COUNTERS:
            rooms["/".join(name.parts[:-1][:2])] += COUNTERS[name.suffix]((root / name).read_text())
    return rooms


if __name__ == "__main__":
    rooms = count()
    for room, lines in [*sorted(rooms.items()), ("total", rooms.total())]:
        print(f"{lines:7,}  {room}")
