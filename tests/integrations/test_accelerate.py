"""Guidance in an Accelerate loop: gradients as without it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attnviz import guidance
from tests.integrations.support import Net, batches

pytest.importorskip("accelerate", reason="the extra 'hf' brings accelerate")


def test_gradients_are_those_of_the_plain_loop() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    plain, net = Net(), Net()
    prepared, _ = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    masks = torch.zeros(3, 16, 16)
    masks[:, 4:12, 4:12] = 1
    for model, backward in ((plain, torch.Tensor.backward), (prepared, accelerator.backward)):
        for x, y in batches():
            seen = guidance.class_map(model, x, y, layer="body")
            loss = F.cross_entropy(seen.logits, y) + guidance.losses.energy(seen, masks).total
            backward(loss)
    for one, other in zip(plain.parameters(), net.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other.grad, one.grad)
