"""Readers of dataset layouts, one a file. Each registers itself in `attnviz.data.READERS`."""
