"""One picture for each kind of attention: a file a mechanism, tensors in, a figure out.

The functions take what `attnviz.inspect(...)` entries read (`Entry.read()`), or the same tensors
from anywhere else, and return a matplotlib Figure that belongs to no window.
"""
