"""Tables and plots of an experiment, from the results so far."""

from benchmark.reporting.report import ReportError, write_report

__all__ = ["ReportError", "write_report"]
