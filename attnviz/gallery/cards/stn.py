"""Spatial transformer: where it looks, and why it samples bilinearly."""

from __future__ import annotations

import math

import torch

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings import warp
from ..modules.spatial_transformer import read_theta
from ..tasks.base import TaskBatch


@register_card(
    "stn",
    title="Spatial transformer",
    family="spatial",
    sentence="A small network chooses an affine window, the picture is sampled in it, and the rest "
    "of the network sees only that.",
    equation=r"(x_s, y_s)^\top = \theta\,(x_t, y_t, 1)^\top,\quad V(x_t, y_t) = "
    r"\sum_{nm} U_{nm}\,k(x_s - m)\,k(y_s - n)",
    paper="Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, arXiv:1506.02025",
    reads="theta of torch.nn.functional.affine_grid, (B, 2, 3)",
    subject=lambda: (reference.load("stn"), turned()[0]),
    code="""
import attnviz
inventory = attnviz.inspect(model, example)
theta = next(e for e in inventory if e.mechanism == "spatial transformer").read()
""",
)
def stn() -> Shown:
    """Draw the window on a turned digit; nobody told the network the angle."""
    model, (image, index, angles, batch) = reference.load("stn"), turned()
    theta = inspection.inspect(model, image)[0].read()
    found, true = read_theta(theta), math.degrees(angles[index].item())
    with torch.no_grad():
        out = model(*batch.inputs)
    turn = math.degrees(found.rotation.item())
    pairs = torch.stack((read_theta(out.theta).rotation, angles))
    together = float(torch.corrcoef(pairs)[0, 1])
    said, label = int(out.logits[index].argmax()), int(batch.truth["label"][index])
    return Shown(
        warp.window(theta[0], image[0], title=f"A {label}, turned by {true:+.0f}°, read as {said}"),
        theta,
        f"The digit was turned by {true:+.0f}°; the window turns by {turn:+.0f}°, so that the "
        f"linear classifier behind it sees the digit upright. Over {len(angles)} test digits the "
        f"two angles correlate with {together:.2f}.",
        f"A digit turned by {true:.0f} degrees with a quadrilateral around it turned by {turn:.0f} "
        "degrees; the points sampled inside; the digit upright as it is seen.",
        {
            "rotation_degrees": turn,
            "true_rotation_degrees": true,
            "scale": float(found.scale.mean()),
            "rotation_correlation": together,
        },
    )


@register_card(
    "stn_sampling",
    title="Spatial transformer: bilinear or nearest",
    family="spatial",
    sentence="Only a kernel that changes with the place lets the loss move the window: the nearest "
    "pixel jumps, and its derivative is 0 wherever it exists.",
    equation=r"\frac{\partial V}{\partial x_s} = \sum_{nm} U_{nm}\,\max(0, 1 - |y_s - n|)\;"
    r"\mathrm{sign}(m - x_s)\;[\,|m - x_s| < 1\,]",
    paper="Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, arXiv:1506.02025, equation 7",
    reads="d output / d shift through torch.nn.functional.grid_sample, (N,)",
    subject=lambda: (reference.load("stn"), reference.sample("stn", 1, seed=3).inputs[0]),
    code="""
import attnviz, torch
from attnviz.gallery.drawings import warp
shift = torch.linspace(-3.99, 3.99, 400)  # pixels
value, slope = warp.shift_response(example[0], (11, 10), shift, mode="bilinear")  # or "nearest"
""",
)
def stn_sampling() -> Shown:
    """Measure an output pixel and its derivative while the window is shifted."""
    image = reference.sample("stn", 1, seed=3).inputs[0][0]
    shift = torch.linspace(-3.99, 3.99, 400)  # at whole and half pixels a derivative jumps
    row, column = _steepest(image)
    values, slopes = {}, {}
    for mode in ("bilinear", "nearest"):
        values[mode], slopes[mode] = warp.shift_response(image, (row, column), shift, mode=mode)
    steepest = slopes["bilinear"].abs().max().item()
    jump = values["nearest"].diff().abs().max().item()
    return Shown(
        warp.shift_curves(
            shift, values, slopes, title=f"Output pixel ({row}, {column}) while the window shifts"
        ),
        torch.stack((slopes["bilinear"], slopes["nearest"])),
        f"Measured by autograd: bilinear sampling has a derivative of up to {steepest:.2f} per "
        f"pixel of shift; nearest sampling jumps by up to {jump:.2f} at once, and its derivative "
        f"is {slopes['nearest'].abs().max().item():.0f} everywhere else, so theta would never "
        "learn.",
        "Two curves over a shift of minus 4 to 4 pixels: the bilinear value is piecewise straight, "
        "the nearest value a staircase; below, the bilinear derivative is a step function and the "
        "nearest one is zero throughout.",
        {
            "largest_slope_bilinear": steepest,
            "largest_slope_nearest": slopes["nearest"].abs().max().item(),
            "largest_jump_nearest": jump,
        },
    )


def turned() -> tuple[torch.Tensor, int, torch.Tensor, TaskBatch]:
    """Return the test digit, of 64, that is turned furthest; its number, all angles, the batch."""
    batch = reference.sample("stn", 64)
    angles = read_theta(batch.truth["theta"]).rotation
    index = int(angles.abs().argmax())
    return batch.inputs[0][index : index + 1], index, angles, batch


def _steepest(image: torch.Tensor) -> tuple[int, int]:
    """Return the place of the inner columns whose neighbours to the left and right vary most."""
    side = image.shape[-1]
    change = image.mean(0).diff(dim=1).abs().unfold(1, 8, 1).sum(-1)
    flat = int(change.argmax())
    return flat // change.shape[1], min(flat % change.shape[1] + 4, side - 1)
