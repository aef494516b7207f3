"""The singular of an English or clinical noun, by rule and by a short list."""

_LISTED = {
    "alveoli": "alveolus",
    "bacteria": "bacterium",
    "bronchi": "bronchus",
    "calculi": "calculus",
    "children": "child",
    "diverticula": "diverticulum",
    "emboli": "embolus",
    "feet": "foot",
    "foci": "focus",
    "fungi": "fungus",
    "ganglia": "ganglion",
    "gyri": "gyrus",
    "hila": "hilum",
    "men": "man",
    "nuclei": "nucleus",
    "ova": "ovum",
    "septa": "septum",
    "sulci": "sulcus",
    "teeth": "tooth",
    "thrombi": "thrombus",
    "vertebre": "vertebra",
    "women": "woman",
}
"""``vertebrae`` has lost its ``a`` by then: words are compared in American spelling."""
_SINGULAR = frozenset(
    """ascites atlas biceps caries cirrhosis diabetes facies forceps herpes lens news pancreas pons quadriceps rabies scabies series species
    triceps""".split()
)
_SIS = ("oses", "stases", "theses", "lyses", "physes", "ptyses")
_NOT_SIS = frozenset({"doses", "noses", "roses", "hoses", "glucoses"})


def singular(word: str) -> str:
    """The singular of a lower-case word; a word that is not a plural is returned as it is."""
    if word in _LISTED:
        return _LISTED[word]
    if len(word) < 4 or not word.endswith("s") or word in _SINGULAR or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith(_SIS) and word not in _NOT_SIS:
        return word[:-2] + "is"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1]
