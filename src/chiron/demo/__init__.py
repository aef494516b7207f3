"""Demonstration of the complete pipeline at small scale: cases, curriculum, search with the model as intern, stage 3, and evaluation.

It uses the same modules as a full run, with small settings: :mod:`chiron.phantom` generates the cases, :mod:`chiron.training` trains,
:mod:`chiron.mics` searches, and :mod:`chiron.evaluation` evaluates.
"""
