"""Photos in: read them rightly and safely, and find them in folders; pictures out."""

from .encoding import PICTURE_FORMATS, picture_bytes
from .finding import IMAGE_SUFFIXES, find_images
from .reading import MAX_PIXELS, open_image, read_image
from .values import PhotoValues, asked, photo_values

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "PICTURE_FORMATS",
    "PhotoValues",
    "asked",
    "find_images",
    "open_image",
    "photo_values",
    "picture_bytes",
    "read_image",
]
