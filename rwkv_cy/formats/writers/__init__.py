"""Writers of other people's formats: one file each, all behind :class:`~rwkv_cy.formats.writers.base.ExportFormat`."""

from rwkv_cy.formats.writers.registry import EXPORT_FORMATS, format_of

__all__ = ["EXPORT_FORMATS", "format_of"]
