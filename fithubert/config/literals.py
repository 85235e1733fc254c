"""Lists that other frameworks' configurations write as Python expressions; parsed, never evaluated."""

import ast
from typing import Any

from fithubert.errors import UserError


def parse_list(text: Any, where: str) -> list[Any]:
    """A list written as Python: literals joined by + and repeated by *. Parsed, never evaluated."""
    try:
        return list(_parse(ast.parse(str(text), mode="eval").body))
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"{where}: not a list of numbers or tuples (given {str(text)!r})") from None


def _parse(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_parse(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _parse(node.left), _parse(node.right)
        if isinstance(node.op, ast.Mult) and isinstance(right, int) and right > 100:
            raise ValueError("too many")
        return left + right if isinstance(node.op, ast.Add) else left * right
    raise ValueError("not a list")
