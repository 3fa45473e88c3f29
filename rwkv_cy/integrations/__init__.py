"""Models of this package in other programs: lm-eval and llm. Each module needs the package that it is for."""
