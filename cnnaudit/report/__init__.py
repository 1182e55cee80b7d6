"""The HTML report: one file that opens anywhere, made from a run directory and the store."""

from cnnaudit.report.page import render, write_report

__all__ = ["render", "write_report"]
