"""Near-duplicate detection: perceptual hashes for images, shingles for texts, without comparing all pairs.

Used by dataset splits and checks, and by the evaluation's contamination check.
"""
