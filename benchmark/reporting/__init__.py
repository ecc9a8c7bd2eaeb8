"""Tables and plots of an experiment, from whatever is finished."""

from benchmark.reporting.report import ReportError, write_report

__all__ = ["ReportError", "write_report"]
