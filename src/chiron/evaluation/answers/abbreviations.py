"""Abbreviations that have one meaning in clinical imaging, with what they stand for, and other names of the same thing.

Left out because they have several meanings: PE, RA, LA, ICH, RT, MS, PT and the like.
"""

_ABBREVIATIONS = """
aids: acquired immunodeficiency syndrome
ards: acute respiratory distress syndrome
avm: arteriovenous malformation
bcc: basal cell carcinoma
cad: coronary artery disease
chf: congestive heart failure
cmv: cytomegalovirus
cns: central nervous system
copd: chronic obstructive pulmonary disease
csf: cerebrospinal fluid
ct: computed tomography, ct scan, computed tomography scan, computerized tomography, cat scan
cxr: chest x ray, chest xray, chest radiograph
dcis: ductal carcinoma in situ
dvt: deep vein thrombosis, deep venous thrombosis
dwi: diffusion weighted imaging
ebv: epstein barr virus
ecg: electrocardiogram, ekg, electrocardiography
eeg: electroencephalogram
gerd: gastroesophageal reflux disease
gi: gastrointestinal
h and e: hematoxylin and eosin, he stain, h and e stain, hematoxylin and eosin stain
hcc: hepatocellular carcinoma
hiv: human immunodeficiency virus
hpv: human papillomavirus
ivc: inferior vena cava
lll: left lower lobe
lul: left upper lobe
lv: left ventricle
mri: magnetic resonance imaging, mr imaging, mri scan, mr, mr scan
nsclc: non small cell lung cancer
pet: positron emission tomography, pet scan
rcc: renal cell carcinoma
rll: right lower lobe
rml: right middle lobe
rul: right upper lobe
rv: right ventricle
sah: subarachnoid hemorrhage
scc: squamous cell carcinoma
sclc: small cell lung cancer
sdh: subdural hematoma
svc: superior vena cava
tb: tuberculosis
uti: urinary tract infection
us: ultrasound, ultrasonography, sonography, us scan, ultrasound scan
x ray: xray, radiograph, plain radiograph, radiography
"""


def _entries() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line in _ABBREVIATIONS.strip().splitlines():
        short, _, names = line.partition(": ")
        first, *others = (tuple(name.split()) for name in names.split(", "))
        found.update(dict.fromkeys((tuple(short.split()), first, *others), first))
    return found


EXPANSIONS = _entries()
"""From the words of an abbreviation or of another name to the words it is written out as; all lower case and singular."""
LONGEST = max(map(len, EXPANSIONS))
"""Words of the longest of them."""
