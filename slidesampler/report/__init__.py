"""Pictures of what was sampled."""

from __future__ import annotations

from slidesampler.report.contact_sheet import contact_sheet
from slidesampler.report.html_report import ReportFiles, write_report

__all__ = ["ReportFiles", "contact_sheet", "write_report"]
