"""A corpus of hostile samples, drawn from a seed: pictures, captions, rows of each format."""
