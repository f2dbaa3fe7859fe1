"""The views of a record: their names, what each shows, and which pairs of them are trained.

The one list of them. The configuration, the data and the loss read it here, so that they need not
know one another; it stands on the standard library alone.
"""

from __future__ import annotations

# Sources: what a view can show.
IMAGE = "image"
DRAWN = "text"  # the caption or the tag sentence, whichever was drawn
CAPTION = "caption"
TAGS = "tags"
TEXTS = (DRAWN, CAPTION, TAGS)
SOURCES = (IMAGE, *TEXTS)

# Two views of one source differ by augmentation (images) or by dropout (texts) alone.
SOURCE_OF = {
    "image1": IMAGE,
    "image2": IMAGE,
    "text1": DRAWN,
    "text2": DRAWN,
    "caption1": CAPTION,
    "caption2": CAPTION,
    "tags1": TAGS,
    "tags2": TAGS,
}
VIEWS = tuple(SOURCE_OF)
IMAGE_VIEWS = tuple(view for view, source in SOURCE_OF.items() if source == IMAGE)
TEXT_VIEWS = tuple(view for view, source in SOURCE_OF.items() if source in TEXTS)

# What is trained unless the configuration says otherwise: the paper's two views of each kind and
# its four pairs of them.
DEFAULT_IMAGE_VIEWS = ("image1", "image2")
DEFAULT_TEXT_VIEWS = ("text1", "text2")
DEFAULT_PAIRS = (("image1", "image2"), ("text1", "text2"), ("image1", "text1"), ("image2", "text2"))
