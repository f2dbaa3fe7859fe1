"""`bench.py scale`: batches larger than memory, and more than one process."""

from benchmarks.accumulation import accumulation_tables
from benchmarks.common import Report
from benchmarks.processes import process_table


def run(report: Report, options) -> None:
    accumulation_tables(report, options)
    process_table(report, options)
