"""`make gpu-sim`: each case on a simulated GPU, beside its budget; `--write` writes the budgets."""

import argparse
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.gpu import budgets
from tests.gpu.cases import CASES, measured


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    options.add_argument("--write", action="store_true", help="write tests/gpu/budgets.json anew")
    options.add_argument("--only", nargs="+", default=[""], help="cases that begin with this")
    asked = options.parse_args()
    warnings.simplefilter("ignore")
    known = budgets.read()
    faults: list[str] = []
    cases = [case for case in CASES if str(case).startswith(tuple(asked.only))]
    # Each has tensors of its own, and a machine of CI two cores.
    with ProcessPoolExecutor(2, get_context("fork")) as processes:
        for case, found in zip(cases, processes.map(measured, cases), strict=True):
            now = budgets.Budget.of(found)
            share = found.peak / found.planned
            sys.stdout.write(
                f"{case!s:46}{now.launches:6} kernels {now.kilobytes_a_token:10,.1f} kB a token "
                f"{found.peak / 2**30:6.2f} GiB, {share:4.0%} of the plan\n"
            )
            sys.stdout.flush()
            if asked.write:
                known = budgets.read() | {str(case): now}
                budgets.write({str(each): known[str(each)] for each in CASES if str(each) in known})
            faults += budgets.faults(case, found, known.get(str(case)))
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
