"""Completion scripts for shells, generated from the argument parser: one file a shell."""
