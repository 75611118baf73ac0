"""Glimpses: hard attention that is trained by REINFORCE."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.glimpses import glimpse_path
from ..modules.glimpses import RecurrentAttention, reinforce
from ..tasks.base import TaskBatch
from ..tasks.canvas import inside


@register_card(
    "ram",
    title="Glimpses: recurrent attention model (RAM)",
    family="hard",
    sentence="The network sees a few small glimpses only, and each one says where the next is "
    "taken; a place is drawn, so its gradient is estimated by REINFORCE.",
    equation=r"l_{t+1} \sim \mathcal{N}(\tanh(W_l h_t), \sigma^2 I),\quad \nabla_\phi J \approx "
    r"\frac{1}{N} \sum_n \sum_t \nabla_\phi \log \pi(l_t^n \mid h_t^n)\,(R^n - b)",
    paper="Mnih, Heess, Graves, Kavukcuoglu 2014, arXiv:1406.6247",
    reads="places of the glimpses, normalised (x, y), (B, T, 2)",
    subject=lambda: (reference.load("ram"), digit("ram").inputs[0]),
    code="""
import attnviz
(entry,) = attnviz.inspect(model, example).of_kind("hard")
locations = entry.read()  # (B, glimpses, 2), -1 and 1 at the edges
""",
)
def ram() -> Shown:
    """Draw the path of glimpses to a digit among clutter."""
    model, batch = reference.load("ram"), digit("ram")
    image, label = batch.inputs[0], int(batch.truth["label"])
    (entry,) = inspection.inspect(model, image).of_kind("hard")
    locations = entry.read()
    with torch.no_grad():
        path = model(image)
    sure = path.steps[0].softmax(1)
    side = image.shape[-1]
    on = inside(locations, batch.truth["box"], side)[0]
    estimate = policy_gradient(model, image, label)
    size, scales = model.size, model.scales
    figure = glimpse_path(
        locations[0], image[0], size=size, scales=scales, box=batch.truth["box"][0],
        patches=path.patches[0].view(len(on), scales, size, size),
        notes=[f"{int(p.argmax())}: {p.max():.0%}" for p in sure],
        title=f"{len(on)} glimpses at a {label}; below each: the answer after it",
    )  # fmt: skip
    return Shown(
        figure,
        locations,
        f"{int(on[1:].sum())} of the {len(on) - 1} glimpses that the network places itself are "
        f"centred on the digit; it is {sure[0, label]:.0%} sure of the {label} after the first and "
        f"{sure[-1, label]:.0%} after the last. With all places pushed to the right, "
        "REINFORCE estimates the derivative of the expected log probability of the right "
        f"class by that push as {estimate['reinforce']:+.2f} ± {estimate['error']:.2f}; a finite "
        f"difference gives {estimate['difference']:+.2f}.",
        "A digit among clutter with numbered squares from the centre to the digit, and columns of "
        "small patches that show what each glimpse saw.",
        {
            "on_digit": float(on[1:].double().mean()),
            "sure_first": float(sure[0, label]),
            "sure_last": float(sure[-1, label]),
            **{f"gradient_{key}": value for key, value in estimate.items()},
        },
    )


def digit(name: str) -> TaskBatch:
    """Return the test digit, of 40, that lies furthest from the centre."""
    batch = reference.sample(name, 40)
    index = batch.truth["centre"].abs().amax(1).argmax()
    return batch.take(index[None])


def policy_gradient(
    model: RecurrentAttention,
    image: Tensor,
    label: int,
    *,
    push: float = 0.32,
    count: int = 1000,
) -> dict[str, float]:
    """Estimate dJ/db by REINFORCE and by a finite difference, b being added to every place's x.

    J is the expected log probability of the right class after the last glimpse, over drawn
    places; b enters before the tanh.

    Args:
        model: is copied.
        image: (1, 1, H, W).
        label: the right class.
        push: b, where the derivative is taken.
        count: drawn paths; the finite difference uses the same draws.

    Returns:
        reinforce, its standard error, and the difference.
    """
    pushed = copy.deepcopy(model)
    start = model.locate.bias[0].item() + push
    images = image.expand(count, -1, -1, -1)

    def run(bias: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            pushed.locate.bias[0] = bias
        path = pushed(images, explore=True, generator=Generator().manual_seed(0))
        return F.log_softmax(path.logits, 1)[:, label], path.log_prob

    with torch.enable_grad():
        reward, log_prob = run(start)
        reward = reward.detach()
        whole = reward[:, None].expand_as(log_prob)
        loss = reinforce(log_prob, whole, whole.mean().expand_as(whole))
        (gradient,) = torch.autograd.grad(-loss, pushed.locate.bias, retain_graph=True)
        halves = []
        for part in range(10):  # ten groups of paths give the estimate's error
            rows = slice(part, None, 10)
            some = reinforce(log_prob[rows], whole[rows], whole.mean().expand_as(whole[rows]))
            (one,) = torch.autograd.grad(-some, pushed.locate.bias, retain_graph=True)
            halves.append(one[0])
    step = 0.05
    with torch.no_grad():
        change = run(start + step)[0].mean() - run(start - step)[0].mean()
    return {
        "reinforce": float(gradient[0]),
        "error": float(torch.stack(halves).std() / 10**0.5),
        "difference": float(change / (2 * step)),
    }
