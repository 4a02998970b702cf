"""`make families`: examines every family and writes the table of docs/models.md anew."""

import re
import sys
import warnings
from pathlib import Path

from tests.families.configs import FAMILIES
from tests.families.table import HEAD, row_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    for family in FAMILIES:
        rows.append(row_of(family))
        sys.stdout.write(f"{rows[-1]}\n")
    table = HEAD + "\n".join(rows) + "\n"
    written = re.sub(r"\| Family \|.*?\n(?!\|)", lambda _: table, PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(written)


if __name__ == "__main__":
    main()
