"""Which attention mechanisms does a model have? `inspect(model, example)`."""

from .entry import KINDS, Entry
from .inventory import Inventory, inspect

__all__ = ["KINDS", "Entry", "Inventory", "inspect"]
