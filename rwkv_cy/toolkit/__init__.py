"""Whole-file operations: convert, inspect, verify, measure. They return reports and never print."""
