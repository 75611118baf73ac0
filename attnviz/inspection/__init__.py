"""Which attention mechanisms does a model have? `inspect(model, example)`."""

from .inventory import Inventory, inspect
from .mechanism import KINDS, Mechanism

__all__ = ["KINDS", "Inventory", "Mechanism", "inspect"]
