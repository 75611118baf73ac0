"""Models, and a segmenter of water, for the command line."""

from tests.support import planting


def reads_water():
    return planting.planted("water")


def reads_object():
    return planting.planted("object")


def reads_both():
    return planting.planted("both")


def sea(photo):
    return photo[..., 2].astype(int) - photo[..., 0] > 52
