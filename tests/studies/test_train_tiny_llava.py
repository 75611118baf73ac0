"""Training the tiny captioner anew."""

import pytest
from safetensors.torch import load_file

from attnviz.models.tiny_clip import weights_path
from attnviz.models.tiny_llava import FILE, WordTokenizer

pytest.importorskip("transformers", minversion="5.0")


def test_a_trial_run_makes_the_weights_that_are_stored():
    from train_tiny_llava import material, train

    model = train(2, 40, 8)
    kept = load_file(weights_path(FILE))
    made = {k: v.shape for k, v in model.state_dict().items() if ".vision_tower." not in k}
    assert made == {k: v.shape for k, v in kept.items()}
    images, said = material(model, 8)
    assert images.shape == (8, 64, 64)
    texts = [WordTokenizer().decode(row) for row in said.tolist()]
    assert all(text.endswith(("on water", "on land")) for text in texts)
