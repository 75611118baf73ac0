"""Reports: one self-contained HTML file each, that opens offline."""

from .page import audit_page, write_audit, write_discovery

__all__ = ["audit_page", "write_audit", "write_discovery"]
