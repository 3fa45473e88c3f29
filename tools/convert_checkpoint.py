"""``rwkv-cy convert``, from a checkout where the package is built but not installed."""

from door import run

run("convert")
