"""Maps of attention from several threads on one model: each sees its own forward."""

from __future__ import annotations

import threading

import pytest
import torch

import attnviz


@pytest.mark.parametrize("method", ["legrad", "rollout", "gradient_rollout"])
def test_threads_do_not_read_each_other(method):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, embed_dim=24, num_heads=2
    ).eval()
    inputs = [torch.randn(i + 1, 3, 32, 32) for i in range(4)]
    wanted = [attnviz.explain(model, x, target=1, method=method).values for x in inputs]
    wrong: list = []

    def work(i):
        for _ in range(6):
            try:
                got = attnviz.explain(model, inputs[i], target=1, method=method).values
                torch.testing.assert_close(got, wanted[i])
            except Exception as error:  # a thread's own error would go unseen
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
