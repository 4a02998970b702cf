"""The formula of a `multi` grader: arithmetic over the scores of its parts, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable, Mapping

MOST_CHARACTERS, MOST_DEPTH = 1_024, 200

BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
# Each with the least and the most of its arguments.
FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "min": (min, 2, 16),
    "max": (max, 2, 16),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "exp": (math.exp, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
}


class Formula:
    """Raises `ValueError` for what is no formula over these names."""

    def __init__(self, text: str, names: set[str]) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"is longer than {MOST_CHARACTERS:,} characters")
        try:
            # A power is written ^, which binds loosely in Python.
            self.tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
            self.require(self.tree, names)
        except (SyntaxError, MemoryError, RecursionError):
            raise ValueError("is no formula, such as (name + 2 * phone) / 3") from None

    def require(self, node: ast.expr, names: set[str], room: int = MOST_DEPTH) -> None:
        if not room:
            raise ValueError(f"is nested more than {MOST_DEPTH} deep")
        match node:
            case ast.Constant(value=float() | int() as value) if not isinstance(value, bool):
                return
            case ast.Name(id=name):
                if name not in names:
                    known = ", ".join(sorted(names))
                    raise ValueError(f"has {name!r}, which is none of the graders: {known}")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                self.require(left, names, room - 1)
                self.require(right, names, room - 1)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
                self.require(operand, names, room - 1)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in FUNCTIONS:
                _, least, most = FUNCTIONS[name]
                if not least <= len(given) <= most:
                    raise ValueError(f"calls {name} with {len(given)} arguments")
                for each in given:
                    self.require(each, names, room - 1)
            case _:
                raise ValueError(
                    f"has {ast.unparse(node)[:64]!r}; it may have numbers, names of graders, "
                    f"+ - * / ^ and {', '.join(FUNCTIONS)}"
                )

    def value(self, scores: Mapping[str, float]) -> float:
        """Raises `ArithmeticError` or `ValueError` where it has none, as at a division by 0."""
        found = self.of(self.tree, scores)
        if not math.isfinite(found):
            raise ArithmeticError("it is not finite")
        return found

    def of(self, node: ast.expr, scores: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=float() | int() as value):
                return float(value)
            case ast.Name(id=name):
                return scores[name]
            case ast.BinOp(left=left, op=op, right=right):
                return BINARY[type(op)](self.of(left, scores), self.of(right, scores))
            case ast.UnaryOp(op=op, operand=operand):
                return UNARY[type(op)](self.of(operand, scores))
            case ast.Call(func=ast.Name(id=name), args=given):
                return float(FUNCTIONS[name][0](*(self.of(each, scores) for each in given)))
        raise ValueError(f"no formula: {ast.dump(node)[:64]}")  # `require` has refused it
