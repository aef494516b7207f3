"""What is nearly the same: images by perceptual hash, texts by their shingles; never by comparing all pairs.

The dataset's splits and checks use it, and so does an evaluation that asks what of it was trained on.
"""
