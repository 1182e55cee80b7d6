"""The HTML report: pages that open anywhere, made from a run directory and the store."""

from cnnaudit.report.writing import write_report

__all__ = ["write_report"]
