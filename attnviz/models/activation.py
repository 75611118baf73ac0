"""Whether an output is logits or probabilities already, and what makes the one of the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .prompts import OfTexts


def are_probabilities(logits: Tensor) -> bool:
    """Return whether a model's own sigmoid or softmax has made probabilities of its logits.

    A sigmoid is seen in the output's graph alone, a softmax also by rows that sum to one.
    """
    flat = logits[:, None] if logits.ndim == 1 else logits
    return flat.ndim == 2 and inferred_activation(flat) == "as it is"


#: what is said of a model whose output are probabilities
PROBABILITIES = (
    "the model's output are probabilities already: its sigmoid or softmax is inside, and where it "
    "is sure, hardly any gradient passes. Replace that last activation with nn.Identity(), or say "
    "where the logits are with output="
)


def stated_activation(model: Any) -> str | None:
    """Return the activation that a model or its config states (Hugging Face), or None."""
    if isinstance(model, OfTexts):
        return model.stated_activation()
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    return {"regression": "none", "multi_label_classification": "sigmoid"}.get(problem or "")


def inferred_activation(logits: Tensor) -> str:
    """Return how logits (B, K) become probabilities: "softmax", "sigmoid", or "as it is"."""
    step = logits.grad_fn
    for _ in range(6):  # through views only: a squeeze or a reshape changes no value
        if step is None:
            break
        name = step.name()
        if name.startswith(("SigmoidBackward", "SoftmaxBackward")):
            return "as it is"
        if not name.startswith(("View", "Unsafe", "Squeeze", "Unsqueeze", "Reshape", "Clone")):
            break
        step = step.next_functions[0][0]
    values = logits.detach().float()
    if values.shape[1] == 1:
        return "sigmoid"
    sums = (values >= 0).all(1) & ((values.sum(1) - 1).abs() < 1e-3)
    return "as it is" if len(values) and bool(sums.all()) else "softmax"
