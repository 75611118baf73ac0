"""Where models come from, one module a source: each has `names()` and `build(...)`."""
