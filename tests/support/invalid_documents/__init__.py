"""A table of invalid PrismRuns: one wrong thing each, and what the user is told about it."""

from invalid_documents.contradictions import CONTRADICTIONS
from invalid_documents.rows import Invalid
from invalid_documents.run_fields import RUN_FIELDS
from invalid_documents.shapes import MISSING, TYPES, UNKNOWN
from invalid_documents.stage_fields import STAGE_FIELDS

__all__ = ["ALL", "CONTRADICTIONS", "FIELDS", "Invalid"]

FIELDS: tuple[Invalid, ...] = RUN_FIELDS + STAGE_FIELDS
"""Every bound, length, pattern and choice of every field."""
ALL: tuple[Invalid, ...] = FIELDS + TYPES + UNKNOWN + MISSING + CONTRADICTIONS
