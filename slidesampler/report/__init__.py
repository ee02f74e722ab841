"""Pictures of what was sampled."""

from __future__ import annotations

from slidesampler.report.contact_sheet import contact_sheet

__all__ = ["contact_sheet"]
