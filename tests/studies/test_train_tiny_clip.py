"""Training the tiny CLIP anew."""

import torch
from safetensors.torch import load_file
from train_tiny_clip import captions, loss_of, train

from attnviz.data import boatwater as bw
from attnviz.models.tiny_clip import weights_path


def test_captions_are_true_of_their_scenes():
    data = bw.generate(groups=["boat/water", "other/land"], seed=1)
    prompts, true = captions(data)
    first = {p for p, t in zip(prompts, true[0].tolist(), strict=True) if t}
    kind = data.kind[0]
    assert first == {"water", "a boat", "a boat on water", f"a {kind}", f"a {kind} on water"}
    assert not {"water", "a boat"} & {
        p for p, t in zip(prompts, true[1].tolist(), strict=True) if t
    }


def test_the_loss_is_that_of_the_true_pairs():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    wanted = torch.tensor(
        [torch.tensor([2.0, 0.0]).softmax(0)[0], torch.tensor([1.0, 0.0]).softmax(0)[0]]
    )
    torch.testing.assert_close(loss_of(logits, torch.eye(2)), -2 * wanted.log().mean())


def test_a_trial_run_makes_the_weights_that_are_stored():
    model = train(2, 40, 8)
    kept = load_file(weights_path())
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in kept.items()
    }
