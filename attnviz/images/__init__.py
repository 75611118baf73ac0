"""Photos in: read them rightly and safely, and find them in folders."""

from .finding import IMAGE_SUFFIXES, find_images
from .reading import MAX_PIXELS, open_image, read_image

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "find_images", "open_image", "read_image"]
