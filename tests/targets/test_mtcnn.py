"""A trained detector: the map of the box round a face lies on the face (MTCNN, 2016)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

import attnviz

pytestmark = pytest.mark.peer("facenet_pytorch")


class Faces(nn.Module):
    """MTCNN's first network (Zhang et al. 2016, arXiv:1604.02878) at one scale, as a detector."""

    def __init__(self, side):
        super().__init__()
        from facenet_pytorch.models.mtcnn import PNet

        self.net, self.side = PNet(), side

    def forward(self, x):
        small = [round(12 * n / self.side) for n in x.shape[2:]]
        shifts, p = self.net(F.interpolate(x, small, mode="area"))
        found = []
        for shift, score in zip(shifts, p[:, 1], strict=True):
            rows, columns = score.shape
            y, x0 = torch.arange(rows)[:, None], torch.arange(columns)[None]
            y, x0 = (n.expand(rows, columns).flatten() * 2.0 + 1 for n in (y, x0))
            corners = torch.stack([x0, y, x0 + 11, y + 11], 1) * self.side / 12
            boxes = corners + shift.flatten(1).T.detach() * self.side
            kept = nms(boxes, score.detach().flatten(), 0.3)[:5]
            found.append(
                {"boxes": boxes[kept], "scores": score.flatten()[kept], "labels": kept * 0}
            )
        return found


def test_the_map_of_a_face_is_on_the_face():
    astronaut = pytest.importorskip("skimage.data").astronaut()
    half = attnviz.models.Preprocess(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = Faces(110).eval()
    # the face that the whole of MTCNN finds with p = 1: x 181 to 268, y 62 to 172
    for target in ("box:0", "box:181,62,268,172@face"):
        for method, least in (("gradcam", 0.25), ("hirescam", 0.95), ("layercam", 0.95)):
            maps = attnviz.explain(
                model, astronaut, target=target, method=method, preprocess=half, labels=["face"]
            )
            assert maps.layer == "net.conv3"  # behind its last bend all boxes share one map
            assert maps.score[0] > 0.99
            x0, y0, x1, y1 = maps.target[0]["box"]
            assert (min(x1, 268) - max(x0, 181)) * (min(y1, 172) - max(y0, 62)) / (87 * 110) > 0.5
            heat = np.asarray(maps.resize("photo").values[0])
            inside = heat[62:172, 181:268].sum() / heat.sum()
            assert inside > least, (method, inside)  # by chance 0.037
