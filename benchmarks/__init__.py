"""What is measured: one module, one command, one table. See README.md in this folder."""
