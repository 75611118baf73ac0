"""Models, and a segmenter of water, for the command line."""

from attnviz.data import boatwater as bw


def reads_water():
    return bw.planted("water")


def reads_object():
    return bw.planted("object")


def reads_both():
    return bw.planted("both")


def sea(photo):
    return photo[..., 2].astype(int) - photo[..., 0] > 52
