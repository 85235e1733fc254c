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


def test_text_is_read_and_written_as_utf_8_whatever_the_locale() -> None:
    """Ruff's rule PLW1514 misses every path whose type it cannot see."""
    for path in sorted([*(ROOT / "fithubert").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert any(keyword.arg == "encoding" for keyword in node.keywords), f"{place}: without an encoding"


def _opens_text(call: ast.Call) -> bool:
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        words = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        text_mode = any(set(word) <= set("rwaxt+") for word in words)
        return text_mode or (method and not call.args and not call.keywords)
    if name in ("run", "Popen", "check_output"):
        return any(keyword.arg == "text" for keyword in call.keywords)
    return method and name in ("read_text", "write_text")
