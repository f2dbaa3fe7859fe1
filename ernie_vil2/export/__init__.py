"""From a trained model to what others run: an artefact, ONNX programs, weights in other formats.

This package stands above `serving`, whose Predictor proves and measures what was exported;
`serving` imports nothing from here.
"""
