"""Measures of quality and drift."""
