"""Reference modules: one page for each attention mechanism that no kept package has."""
