"""The routes: one module for each API."""
