"""The twenty radiology body systems: names, synonyms, DICOM body parts, and how to find a case's body system.

Organ systems are recognized by anatomical words. Systems that span organs (trauma, oncology, pediatrics and similar) are recognized by
metadata only, since a child's fractured rib belongs to all of them. A case whose words match no system, or two, gets none.
"""

import re
from dataclasses import dataclass

from chiron.cases.case import Case
from chiron.text import normalize_words


@dataclass(frozen=True, slots=True)
class BodySystem:
    """Radiology body system."""

    name: str
    short: str
    """At most four letters, used as a column heading."""
    names: str
    """Other names and DICOM body parts (PS3.16, annex L), separated by bars. Each must match a whole text."""
    words: str = ""
    """Case-insensitive regular expression of words that indicate the system within a text."""


BODY_SYSTEMS: tuple[BodySystem, ...] = (
    BodySystem("Breast", "brst", "breasts|breast imaging|mammary", "breasts?|mammary|fibroadenomas?|axillary tail"),
    BodySystem(
        "Cardiac",
        "card",
        "heart|cardiology|cardiovascular|coronary|cardiac imaging|coronaryartery|hheart|pericardium",
        (
            r"cardiac|myocardi\w+|pericardi\w+|coronary|(?:left|right) (?:ventricular|atrial|atrium)|"
            r"(?:mitral|tricuspid) valve|pacemaker"
        ),
    ),
    BodySystem(
        "Central nervous system",
        "cns",
        "cns|brain|neuro|neuroradiology|neurological|nervous system|nervous|cerebral|cranial",
        (
            r"brain|cerebr(?:al|um|i)|cerebell(?:ar|um)|intracranial|hippocamp\w+|gliomas?|glioblastomas?|mening\w+|"
            r"subarachnoid|subdural|white matter|corpus callosum|basal ganglia|pituitary|hydrocephalus|thalam(?:us|ic)|"
            r"(?:frontal|temporal|parietal|occipital) lobe"
        ),
    ),
    BodySystem(
        "Chest",
        "chst",
        "thorax|thoracic|lung|lungs|pulmonary|respiratory|respiratory system|chest imaging|mediastinum|bronchus|pleura",
        (
            r"lungs?|pulmonary|pneumothora\w+|pneumoni\w+|pleura\w*|bronch(?!oscop)\w+|mediastin\w+|tracheal?|"
            r"(?:upper|middle|lower) lobe|thymomas?|thymus|emphysema(?:tous)?"
        ),
    ),
    BodySystem("Forensic", "fore", "forensics|forensic imaging|post mortem|postmortem"),
    BodySystem(
        "Gastrointestinal",
        "gi",
        (
            "gi|git|gastrointestinal tract|digestive|digestive system|bowel|colon|stomach|esophagus|oesophagus|rectum|"
            "smallintestine|small bowel|duodenum|appendix"
        ),
        (
            r"bowel|colon(?:ic)?|sigmoid|append(?:ix|icitis)|gastric|stomach|duoden(?:um|al)|jejun(?:um|al)|ile(?:um|al)|"
            r"o?esophag(?:us|eal)|rect(?:um|al)|caec(?:um|al)|cec(?:um|al)|divertic\w+itis|intussusception|volvulus|crohn'?s?"
        ),
    ),
    BodySystem(
        "Gynaecology",
        "gyn",
        "gynecology|gynaecological|gynecological|female reproductive|uterus|ovary|cervix|vagina|female pelvis",
        (
            r"uter(?:us|ine)|ovar(?:y|ies|ian)|endometri\w+|fallopian|adenomyosis|cervical (?:cancer|carcinoma)|vagin\w+|"
            r"adnexal?"
        ),
    ),
    BodySystem("Haematology", "haem", "hematology|haematological|hematological|blood|lymphatic|bone marrow"),
    BodySystem(
        "Head & neck",
        "h&n",
        (
            "head and neck|head neck|headneck|neck|ent|ear nose throat|face|orbit|sinus|paranasal sinuses|thyroid|larynx|"
            "pharynx|jaw|mandible|maxilla|dental|eye|ear|parotid|parotidgland|nasopharynx|temporomandibular joint|tmj"
        ),
        (
            r"thyroid|parotid|orbit(?:s|al)?|larynx|laryngeal|(?:naso|oro)?pharyn(?:x|geal)|mandib(?:le|ular)|maxill(?:a|ary)|"
            r"(?:sphenoid|ethmoid|paranasal|frontal) sinus(?:es)?|salivary|cochlea\w*|tonsil\w*|mastoid\w*|retina\w*"
        ),
    ),
    BodySystem(
        "Hepatobiliary",
        "hepb",
        "hepatobiliary system|liver|hepatic|biliary|gallbladder|pancreas|bile duct|biliarytract|spleen and liver",
        (
            r"liver|hepat(?:ic|ocellular|itis|omegaly)|biliary|bile ducts?|gallbladder|gallstones?|chole(?:cyst|doch|lith)\w+|"
            r"pancrea(?:s|tic|titis)|cirrho(?:sis|tic)"
        ),
    ),
    BodySystem("Interventional", "intv", "interventional radiology|ir|intervention"),
    BodySystem(
        "Musculoskeletal",
        "msk",
        (
            "msk|bone|bones|skeletal|skeletal system|muscular|joint|joints|extremity|orthopaedics|orthopedics|shoulder|elbow|"
            "wrist|hand|finger|hip|knee|ankle|foot|leg|arm|femur|tibia|humerus|clavicle|scapula|toe|forearm|thigh|calf|"
            "calcaneus|patella|upperlimb|lowerlimb|rib|sternum|upper limb|lower limb"
        ),
        (
            r"femur|femoral (?:head|neck|condyle|shaft)|tibia[l]?|fibular?|humer(?:us|al)|radius|ulnar?|scaphoid|metatars\w+|"
            r"metacarp\w+|menisc(?:us|al|i)|cruciate|rotator cuff|knees?|shoulders?|ankles?|wrists?|elbows?|patellar?|"
            r"calcane(?:us|al)|clavic(?:le|ular)|osteosarcoma|osteochondroma|achilles|talus|acetabul\w+|supraspinatus"
        ),
    ),
    BodySystem(
        "Obstetrics",
        "obst",
        "obstetric|obstetrical|pregnancy|fetal|foetal|fetus",
        r"f(?:o)?et(?:us|al)|gestational|placenta\w*|pregnan(?:t|cy)|ectopic pregnancy",
    ),
    BodySystem("Oncology", "onco", "oncological|cancer|tumour|tumor"),
    BodySystem("Paediatrics", "paed", "pediatrics|paediatric|pediatric|paeds|peds"),
    BodySystem(
        "Spine",
        "spin",
        (
            "spinal|vertebral|vertebral column|cspine|tspine|lspine|sspine|lsspine|c spine|t spine|l spine|cervical spine|"
            "thoracic spine|lumbar spine|sacrum|coccyx|spinal cord"
        ),
        (
            r"spin(?:e|al)(?: cord| canal)?|vertebra\w*|interverteb\w+|spondyl\w+|"
            r"(?:lumbar|cervical|thoracic) (?:spine|disc|vertebra\w*)|cauda equina|sacr(?:um|al)|odontoid|"
            r"disc (?:herniation|protrusion|extrusion)"
        ),
    ),
    BodySystem("Trauma", "trau", "traumatology|injury|injuries|emergency"),
    BodySystem(
        "Urogenital",
        "urog",
        (
            "urology|genitourinary|gu|urinary|urinary system|renal|kidney|kidneys|bladder|prostate|ureter|testis|scrotum|"
            "penis|urogenital system|adrenal|testes"
        ),
        (
            r"kidneys?|renal|ureter(?:s|ic|al)?|(?:urinary )?bladder|prostat(?:e|ic)|test(?:is|es|icular)|scrot(?:um|al)|"
            r"nephro\w+|hydronephrosis|pyelonephritis|adrenal|urethra\w*|epididym\w+"
        ),
    ),
    BodySystem(
        "Vascular",
        "vasc",
        (
            "vessel|vessels|vascular system|aorta|artery|arteries|vein|veins|carotid|peripheral vascular|iliacartery|"
            "abdominal aorta|thoracic aorta"
        ),
        (
            "aortic (?:dissection|aneurysm)s?|(?:aneurysm|dissection)s? of the (?:abdominal |thoracic )?aorta|vena cava|"
            "deep vein thrombosis|carotid (?:artery )?(?:stenosis|dissection|occlusion)|varicose|claudication"
        ),
    ),
    BodySystem("Other", "othr", "not applicable|n/a|na|none|other|miscellaneous|whole body|wholebody"),
)
"""Body systems in the column order of the coverage map."""

_BY_NAME = {normalize_words(name, keep="&"): s for s in BODY_SYSTEMS for name in (s.name, s.short, *s.names.split("|"))}
# Phrases that contain a word of another system; they are removed before matching.
_NOT_THAT = re.compile(
    r"\b(?:pulmonary (?:arter(?:y|ies)|trunk|veins?|valve)|renal (?:arter(?:y|ies)|veins?|function|failure)"
    r"|hepatic (?:arter(?:y|ies)|veins?)"
    r"|(?:carotid|mesenteric|cerebral|vertebral|coronary) arter(?:y|ies)(?= bypass)|femoral (?:arter(?:y|ies)|veins?)|knee pain"
    r"|bowel (?:habits?|sounds)|liver function|thyroid function|vertebral arter(?:y|ies)|radius of)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:no|without|denies|denied|not)\b[^.;,]{0,60}", re.IGNORECASE)
_WORDS = tuple((s, re.compile(rf"\b(?:{s.words})\b", re.IGNORECASE)) for s in BODY_SYSTEMS if s.words)


def body_system_of(text: str) -> BodySystem | None:
    """Return the body system that a text names or indicates; None if there is no match or more than one."""
    whole = _BY_NAME.get(normalize_words(text, keep="&"))
    if whole is not None:
        return whole
    bare = _NEGATED.sub(" ", _NOT_THAT.sub(" ", text))
    found = [system for system, words in _WORDS if words.search(bare)]
    return found[0] if len(found) == 1 else None


def body_system_of_case(case: Case) -> BodySystem | None:
    """Return a case's body system, or None if uncertain: from its metadata, else from its question, history and title.

    Findings are not used, because they also describe normal organs.
    """
    for named in (case.body_system, case.meta.get("body_part")):
        if isinstance(named, str) and (system := body_system_of(named)) is not None:
            return system
    return body_system_of("\n".join((case.title or "", case.question, case.history)))
