"""The HTML report: pages that open anywhere, made from a run directory and the store."""
