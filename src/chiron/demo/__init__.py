"""The whole loop in miniature: cases, a curriculum, the search with the model itself as intern, the last stage, and what came of it.

Everything here is put together from the parts that the real thing uses, with small settings: :mod:`chiron.phantom` draws the cases,
:mod:`chiron.training` trains, :mod:`chiron.mics` searches, :mod:`chiron.evaluation` measures.
"""
