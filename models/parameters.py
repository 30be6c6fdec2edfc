"""A name with parameters, as ``RandomForestClassifier(n_estimators=300)``: read, never evaluated."""

import ast
from collections.abc import Collection
from typing import Any


def split_call(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"Name(key=value)"`` into the name and its parameters; ``"Name"`` has none.

    Parameters
    ----------
    text
        The values are literals of Python: numbers, strings, None, True, False, or tuples, lists, dicts of
        them.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    refusal = (
        f"{text!r} must be a name, or a name with parameters whose values are literals: Name(a=1, b='c')"
    )
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise ValueError(refusal)
        return node.func.id, {
            keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords
        }
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(refusal) from error


def require_known(given: Collection[str], known: Collection[str]) -> None:
    """Refuse parameters that there are not; raise ``ValueError`` that names them and those that there are."""
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"there is no parameter {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'none'}"
        )
