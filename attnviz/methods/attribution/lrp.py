"""Layer-wise relevance propagation, by captum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import MethodError
from ..twin import twin
from ._register import register_attribution
from ._run import Job, summed

#: without effect in eval mode
_IDLE = (nn.Identity, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
#: linear, and unknown to captum: the epsilon rule holds as it is
_LINEAR = (
    *(*_IDLE, nn.Flatten, nn.Unflatten),
    *(nn.Conv1d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm3d, nn.ZeroPad2d, nn.PixelShuffle),
    *(nn.AvgPool1d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool3d),
)


class _Scored(nn.Module):
    """The model up to the score of one class."""

    def __init__(self, model: nn.Module, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._score = score

    def forward(self, inputs: Tensor) -> Tensor:
        return self._score(inputs)[:, None]


@register_attribution("lrp", paper="doi:10.1371/journal.pone.0130140", units="score")
def lrp(job: Job) -> Tensor:
    """LRP: the score passed back layer by layer with the epsilon rule (Bach et al. 2015).

    captum's, on a copy of the model. It knows linear layers, convolutions, pools, batch norms,
    ReLUs and what only reshapes as modules; others are an error. What is lost (at biases, and
    where branches are added) is meta["convergence_delta"], and warned of above 5 %. For
    transformers: attnlrp, cplrp.

    Args:
        job: the images.

    Returns:
        (K, g, H, W), signed; sums to the score where nothing is lost.
    """
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    found = []
    for k in job.classes:
        # it writes to the weights and hangs its rules on the modules
        model = twin(job.request.model, share=False)
        for module in model.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010
            if type(module) in _LINEAR:
                setattr(module, "rule", EpsilonRule())  # noqa: B010
            if type(module) in _IDLE:  # the rules of two modules must not meet at one tensor
                setattr(module, "forward", torch.clone)  # noqa: B010
        with torch.enable_grad():
            try:
                rules = LRP(_Scored(model, job.score(k, model)))
                found.append(
                    rules.attribute(job.inputs.detach().clone().requires_grad_(), target=0).detach()
                )
            except (TypeError, RuntimeError) as error:
                raise MethodError(
                    f"captum's LRP does not cover {type(job.request.model).__name__}: "
                    f"{str(error).strip()[:200]}; use deeplift or integrated_gradients, or "
                    "attnlrp for a transformer"
                ) from error
    reached = torch.stack([a.flatten(1).sum(1) for a in found])
    if bool(((reached - job.group.scores).abs() > job.group.scores.abs()).any()):
        raise MethodError(
            f"relevance is not conserved in {type(job.request.model).__name__}: scores up to "
            f"{float(job.group.scores.abs().max()):.3g} became {float(reached.abs().max()):.3g}. "
            "captum's rules are wrong at added branches and batch norms; use deeplift or "
            "integrated_gradients, or attnlrp for a transformer"
        )
    job.miss(reached, job.group.scores)
    return summed(found)
