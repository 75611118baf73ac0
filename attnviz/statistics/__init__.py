"""Intervals, tests, correlations and clusters: what the figures of metrics and audits rest on."""
