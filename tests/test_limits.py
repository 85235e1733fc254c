"""The limits of size: 300 lines a file, 60 a function. Ruff holds the limit of 7 parameters (PLR0913)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES = 300, 60
FOLDERS = ("fithubert", "pipeline", "tests")


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_and_functions_are_short(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        assert len(text.splitlines()) <= FILE_LINES, f"{name}: more than {FILE_LINES} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= FUNCTION_LINES, f"{name}: {node.name} has more than {FUNCTION_LINES} lines"
