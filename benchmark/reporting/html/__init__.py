"""The page ``report.html`` of an experiment: one file that works offline."""

from benchmark.reporting.html.page import write_page

__all__ = ["write_page"]
