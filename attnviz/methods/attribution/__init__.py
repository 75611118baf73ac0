"""Attributions of the input's own values to the score, by gradients and their kin; one file each.

    fn(job, *, options) -> maps (K, g, H, W) for K classes and the g images of a job

captum computes what it computes exactly and without a trace (integrated gradients, LRP on a copy);
the rest is written here, because captum draws from global generators, leaves functional ReLUs and
reused modules out, or wants scikit-learn. It is the oracle of all of them in the tests.
"""

from .. import METHODS
from ._register import register_attribution

__all__ = ["METHODS", "register_attribution"]
