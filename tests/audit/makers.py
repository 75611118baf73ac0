"""Models for the command line."""

from attnviz.data import boatwater as bw


def reads_water():
    return bw.planted("water")


def reads_object():
    return bw.planted("object")
