"""Head importance against gates that are really there."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnviz.attention.statistics import head_importance


class Gated(nn.Module):
    """One attention whose heads can be turned down; heads fold into the batch if asked."""

    num_heads = 3

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.qkv, self.head = nn.Linear(12, 36), nn.Linear(12, 4)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, 3, 4).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if self.folded:
            q, k, v = (t.reshape(b * 3, n, 4) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).view(b, 3, n, 4)
        out = out if gate is None else out * gate
        return self.head(out.transpose(1, 2).reshape(b, n, 12).mean(1))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_the_gradient_of_a_gate(folded, frozen):
    torch.manual_seed(0)
    model = Gated(folded).double().eval()
    x = torch.randn(2, 5, 12).double()
    gate = torch.ones(2, 3, 1, 1).double().requires_grad_()
    (wanted,) = torch.autograd.grad(model(x, gate)[:, 1].sum(), gate)
    model.requires_grad_(not frozen)
    found = head_importance(model, x, target=1)
    assert list(found) == [0]
    torch.testing.assert_close(found[0], wanted.abs().mean(0).flatten())
    assert all(p.grad is None and p.requires_grad != frozen for p in model.parameters())
