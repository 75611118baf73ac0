import pytest
import torch
import torch.nn.functional as F

from attnviz.gallery.modules.dynamic_capacity import (
    DynamicCapacityNetwork,
    entropy,
    entropy_saliency,
)

F64 = torch.float64


def test_entropy_is_known_at_both_ends():
    assert entropy(torch.zeros(1, 8, dtype=F64)).item() == pytest.approx(torch.tensor(8.0).log())
    assert entropy(torch.tensor([[100.0, 0.0]], dtype=F64)).item() == pytest.approx(0, abs=1e-9)


def test_saliency_is_the_closed_form_for_a_linear_top():
    # z = W c_flat + b: dH/dz_k = -p_k (log p_k + H), so dH/dc = W^T of that
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4 * 2 * 5, generator=generator, dtype=F64)
    vectors = torch.randn(2, 4, 2, 5, generator=generator, dtype=F64)
    got = entropy_saliency(vectors, lambda c: c.flatten(1) @ weight.T)
    p = torch.softmax(vectors.flatten(1) @ weight.T, 1)
    h = -(p * p.log()).sum(1, keepdim=True)
    gradient = (-p * (p.log() + h)) @ weight
    assert torch.allclose(got, gradient.view(2, 4, 2, 5).square().sum(1).sqrt(), atol=1e-10)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_saliency_works_without_a_graph_and_leaves_none(context):
    torch.manual_seed(0)
    model = DynamicCapacityNetwork()
    image = torch.rand(2, 1, 48, 48)
    expected = model(image).saliency
    with context():
        out = model(image)
    assert torch.allclose(out.saliency, expected, atol=1e-7)
    assert not out.saliency.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_fine_vectors_replace_the_most_salient_ones():
    torch.manual_seed(0)
    model = DynamicCapacityNetwork(k=2).double()
    image = torch.rand(3, 1, 32, 40, dtype=F64)
    out = model(image)
    vectors = model.coarse(image)
    assert torch.allclose(out.coarse_logits, model.top(vectors), atol=1e-12)
    refined, gaps = vectors.clone(), []
    padded = F.pad(image, (4, 4, 4, 4))
    for b in range(3):
        ranked = sorted(
            ((out.saliency[b, i, j].item(), i, j) for i in range(4) for j in range(5)), reverse=True
        )
        assert out.chosen[b].tolist() == [[i, j] for _, i, j in ranked[:2]]
        for _, i, j in ranked[:2]:
            patch = padded[b : b + 1, :, 8 * i : 8 * i + 16, 8 * j : 8 * j + 16]
            fine = model.fine(patch)[0]
            gaps.append((vectors[b, :, i, j] - fine).square().mean())
            refined[b, :, i, j] = fine
    assert torch.allclose(out.logits, model.top(refined), atol=1e-10)
    assert out.hint.item() == pytest.approx(torch.stack(gaps).mean().item())


def test_odd_size_is_refused():
    with pytest.raises(ValueError, match="divide by 8"):
        DynamicCapacityNetwork()(torch.rand(1, 1, 44, 48))
