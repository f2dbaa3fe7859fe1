"""Embeddings of a whole set, by an exported model, in files that other programs read too.

Not `evaluation/embed.py`, which embeds an evaluation set in memory, with a model that is trained.
"""
