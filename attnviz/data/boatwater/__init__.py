"""Boat or water? A benchmark of context confusion that runs offline."""
