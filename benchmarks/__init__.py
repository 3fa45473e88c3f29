"""Benchmarks: each module is one command that prints one table. See README.md in this folder."""
