"""Reference modules: one page for each attention mechanism that no kept package has.

Each module computes its attention by plain operations and hands it back from `forward`. Small
trained ones come with the package::

    from attnviz.gallery import modules as reference

    reference.names()                       # "stn", "ram", "bahdanau", ...
    model = reference.load("stn")
    batch = reference.sample("stn", 8)       # test examples, drawn from a seed
    out = model(*batch.inputs)              # out.theta is the attention

What is not here, because kept packages have it: squeeze-and-excitation, ECA, CBAM, selective
kernels, split attention, coordinate attention, non-local, halo, bottleneck and lambda layers
(timm), deformable convolution (torchvision).
"""

from .files import manifest
from .store import load, measure, names, sample, task

__all__ = ["load", "manifest", "measure", "names", "sample", "task"]
