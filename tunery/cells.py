"""Cells of a CSV that somebody opens in a spreadsheet."""

# What a spreadsheet takes for a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> object:
    """People name keys and projects: none of it is to be a formula."""
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return "" if value is None else value
