"""The miniature world: clinical cases that are drawn and worded by a program, whose truth is known, and that are nobody's.

The door is :func:`chiron.phantom.sample.write_sample`: a folder of cases, their images, and a textbook of the world's rules.
Below it: :mod:`~chiron.phantom.world` (attributes, diagnoses and the rules that join them), :mod:`~chiron.phantom.sample`
(one case from its number), :mod:`~chiron.phantom.wording` (all that is said) and :mod:`~chiron.phantom.drawing` (all that is
seen; a file for each modality beside it).

Two conventions hold everywhere. *Sides are the patient's, pictures are radiological*: the patient's left is on the right of
the image, and a mark "L" says so. *The diagnoses are invented*: no sentence here is medicine.
"""
