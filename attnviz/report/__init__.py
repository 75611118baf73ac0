"""Reports: one self-contained HTML file each, that opens offline."""

from .page import audit_page, write_audit, write_discovery
from .viewer import Note, viewer, write_viewer

__all__ = ["Note", "audit_page", "viewer", "write_audit", "write_discovery", "write_viewer"]
