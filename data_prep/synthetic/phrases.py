"""Synthetic reports in the style of PTB-XL: the wording of each finding by German, English and Swedish machines.

The wording follows PTB-XL's own reports, including their spelling (lower case, umlauts as capitals). A phrase may end
in `|CODES`: labels that this wording implies in addition to the finding, such as QWAVE if Q waves are mentioned.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

TAIL = " 4.46                          unbestÄtigter bericht"
"""Text with which the CS100 and AT-60 recorders end an unconfirmed report."""
HEDGES = {"nicht auszuschliessen": 15.0, "cannot be": 15.0, "kan ej uteslutas": 15.0, "bÖr ÖvervÄgas": 35.0}
HEDGES |= dict.fromkeys(("mÖglich", "verdacht", "possible", "suggesting", "misstÄnkt", "mÅttliga", "mÄssige"), 50.0)
HEDGES |= dict.fromkeys(("wahrscheinlich", "probable", "likely", "sannolikt"), 80.0)
"""Likelihood of a finding, in percent, for each hedge in the wording."""

# Phrases of each finding: (German, English, Swedish). The order of the findings is their order in a report.
_PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "PVC": (
        ("ventrikulÄre extrasystole(n)",),
        ("premature ventricular contraction(s).",),
        ("ventrikulÄr(a) extrasystoli(er)",),
    ),
    "PVC BIGU": (
        ("ventrikulÄre extrasystole(n), bigeminus",),
        ("premature ventricular contraction(s), bigeminy.", "premature ventricular contractions, bigeminy."),
        ("ventrikulÄr(a) extrasystoli(er)",),
    ),
    "PVC TRIGU": (
        ("ventrikulÄre extrasystole(n), trigeminus",),
        ("premature ventricular contraction(s), trigeminy.", "premature ventricular contractions, trigeminy."),
        ("ventrikulÄr(a) extrasystoli(er)",),
    ),
    "PAC": (
        ("supraventrikulÄre extrasystole(n)",),
        ("premature atrial contraction(s).",),
        ("supraventrikulÄr(a) extrasystoli(er)",),
    ),
    "PAC BIGU": (
        ("supraventrikulÄre extrasystole(n), bigeminus",),
        ("premature atrial contraction(s), bigeminy.", "premature atrial contractions, bigeminy."),
        ("supraventrikulÄr(a) extrasystoli(er)",),
    ),
    "PAC TRIGU": (
        ("supraventrikulÄre extrasystole(n), trigeminus",),
        ("premature atrial contraction(s), trigeminy.",),
        ("supraventrikulÄr(a) extrasystoli(er)",),
    ),
    "SR": (("sinusrhythmus",), ("sinus rhythm.",), ("sinusrytm",)),
    "SBRAD": (("sinusbradykardie",), ("sinus bradycardia.",), ("sinusbradykardi",)),
    "STACH": (("sinustachykardie",), ("sinus tachycardia.",), ("sinustachykardi",)),
    "SARRH": (("sinus arrhythmie",), ("sinus arrhythmia.",), ("sinus arytmi",)),
    "AFIB": (("vorhofflimmern/-flattern", "vorhofflimmern"), ("atrial fibrillation.",), ("fÖrmaksflimmer/-fladder",)),
    "AFIB fast": (
        ("tachykardes vorhofflimmern",),
        ("atrial fibrillation with rapid ventricular response.",),
        ("fÖrmaksflimmer med hÖg kammarfrekvens",),
    ),
    "AFLT": (
        ("vorhofflattern",),
        ("atrial flutter with 4:1 av block.",),
        ("fÖrmaksflimmer/-fladder",),
    ),
    "AFLT fast": (
        ("vorhofflattern 2:1",),
        (
            "rhythm is atrial flutter with 2:1 av block and rapid ventricular response.",
            "atrial flutter with 2:1 av block.",
        ),
        ("fÖrmaksflimmer med hÖg kammarfrekvens",),
    ),
    "SVTAC": (
        ("supraventrikulÄre tachykardie",),
        (
            "a rapid, regular supraventricular tachycardia is present.",
            "rapid regular supraventricular tachycardia.",
        ),
        ("regelbunden rytm, inga p-vÅg funna",),
    ),
    "PACE": (
        ("schrittmacher ekg", "pacemaker ekg"),
        (
            "pacemaker spikes noted. a regular paced rhythm is present. apparently normal pacemaker function.",
            "pacemaker spikes noted. a regular paced rhythm is present.",
        ),
        ("pacemaker ekg",),
    ),
    "1AVB": (("a-v block i",), ("prolonged pr interval.|LPR",), ("a-v block i",)),
    "LAO/LAE": (
        ("p-sinistrocardiale", "verdacht auf p-sinistrocardiale", "p-verbreiterung"),
        ("left atrial enlargement.", "possible left atrial enlargement."),
        ("hypertrofi av vÄnster fÖrmak", "misstÄnkt hypertrofi av vÄnster fÖrmak"),
    ),
    "RAO/RAE": (
        ("p-dextrocardiale", "vorhofsueberlastung rechts"),
        ("right atrial enlargement.", "possible right atrial enlargement."),
        ("",),
    ),
    "MID": (("lagetyp normal", "lagetyp normal", "lagetyp normal", ""), ("",), ("",)),
    "LAD": (("linkstyp",), ("", "", "borderline left axis deviation."), ("vÄnster el-axel",)),
    "ALAD": (
        ("ueberdrehter linkstyp", "Überdrehter linkstyp"),
        ("left axis deviation.", "abnormal left axis deviation."),
        ("extrem vÄnster el-axel",),
    ),
    "RAD": (("rechtstyp",), ("rightward axis.",), ("hÖger el-axel",)),
    "ARAD": (("ueberdrehter rechtstyp",), ("right axis deviation.",), ("extrem hÖger el-axel",)),
    "LVOLT": (
        ("periphere niederspannung",),
        ("low limb lead voltage.",),
        ("lÅga qrs amplituder i extremitetsavledningarna",),
    ),
    "LAFB": (
        ("linksanteriorer hemiblock", "linksanteriorer hemiblock", ""),
        ("left anterior fascicular block.",),
        ("vÄnster anteriort hemiblock",),
    ),
    "LPFB": (
        ("linksposteriorer hemiblock",),
        ("left posterior fascicular block.", "probable left posterior fascicular block."),
        ("vÄnster posteriort hemiblock",),
    ),
    "CLBBB": (
        ("linksschenkelblock", "linksschenkelblock", "vollstÄndiger linksschenkelblock"),
        (
            "left bundle branch block.",
            "left bundle branch block, this is most commonly due to    ischaemic heart disease.",
        ),
        ("vÄnstersidigt skÄnkelblock",),
    ),
    "CRBBB": (("rechtsschenkelblock",), ("right bundle branch block.",), ("hÖgersidigt skÄnkelblock",)),
    "IRBBB": (
        ("unvollstÄndiger rechtsschenkelblock",),
        (
            "incomplete right bundle branch block.",
            "incomplete right bundle branch block, this is probably    a normal variant.",
        ),
        ("inkomplett hÖgersidigt skÄnkelblock",),
    ),
    "IVCD": (
        ("unspezifische intraventrikulÄre leitungsstÖrung", "unspezifischer intraventrikulÄrer block"),
        ("non-specific intraventricular delay.", "non-specific intraventricular block."),
        ("ospecifikt skÄnkelblock", "intraventrikulÄrt retledningshinder"),
    ),
    "LVH": (
        ("linkshypertrophie", "linkshypertrophie mÖglich", "mÄssige amplitudenkriterien fÜr linkshypertrophie|VCLVH"),
        (
            "left ventricular hypertrophy.",
            "voltages are high in chest leads suggesting lvh.|VCLVH",
            "voltages are high in limb leads suggesting lvh.|VCLVH",
        ),
        ("vÄnster kammarhypertrofi", "misstÄnkt vÄnster kammarhypertrofi"),
    ),
    "RVH": (
        ("rechtshypertrophie mÖglich", "rechtshypertrophie"),
        ("right ventricular hypertrophy.", "possible right ventricular hypertrophy."),
        ("",),
    ),
    "IMI": (
        (
            "qrs(t) abnorm    inferiorer infarkt     alter unbest.|ABQRS",
            "qrs(t) abnorm    inferiorer infarkt     wahrscheinlich alt|ABQRS",
            "qrs(t) abnormal    inferiorer infarkt     wahrscheinlich alt|ABQRS",
            "qrs(t) abnorm    inferiorer myokardschaden mÖglich|ABQRS",
        ),
        (
            "q waves in ii, iii, avf consistent with old inferior    myocardial infarction.|QWAVE",
            "q waves in ii, iii, avf suggesting old inferior    myocardial infarction.|QWAVE",
            "possible old inferior myocardial infarction.",
        ),
        (
            "avvikande qrs(t) fÖrlopp    inferior infarkt     Ålder ej bestÄmmbar|ABQRS",
            "avvikande qrs(t) fÖrlopp    inferior infarkt     sannolikt Äldre|ABQRS",
        ),
    ),
    "ILMI": (
        (
            "qrs(t) abnorm    lateraler infarkt     alter unbest.    inferiorer infarkt     alter unbest.|ABQRS",
            "qrs(t) abnorm    anterolateraler infarkt mÖglich    inferiorer infarkt     wahrscheinlich alt|ABQRS",
        ),
        ("q waves in ii, iii, avf, v5,6 consistent with old inferolateral    myocardial infarction.|QWAVE",),
        ("avvikande qrs(t) fÖrlopp    inferolateral infarkt     Ålder ej bestÄmmbar|ABQRS",),
    ),
    "ASMI": (
        (
            "qrs(t) abnorm    anteroseptaler infarkt     wahrscheinlich alt|ABQRS",
            "qrs(t) abnorm    anteroseptaler infarkt     alter unbest.|ABQRS",
            "qrs(t) abnorm    anteroseptaler myokardschaden nicht auszuschliessen|ABQRS",
        ),
        (
            "qs complexes in v2,3 consistent with old anteroseptal    myocardial infarction.|QWAVE",
            "qs complexes in v2 suggesting old anteroseptal    myocardial infarction.|QWAVE",
        ),
        ("avvikande qrs(t) fÖrlopp    anteroseptal infarkt     Ålder ej bestÄmmbar|ABQRS",),
    ),
    "ALMI": (
        (
            "qrs(t) abnorm    anterolateraler infarkt     alter unbest.|ABQRS",
            "qrs(t) abnorm    anterolateraler infarkt     wahrscheinlich alt|ABQRS",
        ),
        ("q waves in i, avl, v4,5,6 consistent with old anterolateral    myocardial infarction.|QWAVE",),
        ("avvikande qrs(t) fÖrlopp    anterolateral infarkt     Ålder ej bestÄmmbar|ABQRS",),
    ),
    "LMI": (
        (
            "qrs(t) abnorm    lateraler infarkt     wahrscheinlich alt|ABQRS",
            "qrs(t) abnorm    hochlateraler infarkt mÖglich|ABQRS",
        ),
        ("q waves in i, avl suggesting old lateral infarct.|QWAVE",),
        ("avvikande qrs(t) fÖrlopp    hÖg lateral infarkt bÖr ÖvervÄgas|ABQRS",),
    ),
    "ISC_": (
        (
            "st & t abnorm, wahrscheinlich    anterolaterale ischÄmie oder linksbelastung"
            "    inferolaterale ischÄmie oder linksbelastung",
        ),
        (
            "st segments are depressed in i, ii, avl, v5,6. this may be due to lv strain or ischaemia.|STD_",
            "st segments are depressed in i, avl, v6. t waves are low or flat in these leads."
            " this may be due to lv strain or ischaemia.|STD_ LOWT",
        ),
        (
            "st-t sÄnkning, sÅsom vid    anterolateral ischemi eller vÄnster belastning"
            "    inferolateral ischemi eller vÄnster belastning",
        ),
    ),
    "ISCAL": (
        (
            "st & t abnorm, wahrscheinlich    anterolaterale ischÄmie oder linksbelastung",
            "t abnorm in anterolateralen ableitungen",
        ),
        (
            "t waves are inverted in i, avl, v5,6. non-specific but consistent with myocardial ischaemia.|INVT",
            "st segments are depressed in i, avl, v5,6. t waves are inverted in i, avl, v5,6."
            " findings are likely to be due to ischaemic heart    disease.|STD_ INVT",
        ),
        ("st-t sÄnkning, sÅsom vid    anterolateral ischemi eller vÄnster belastning",),
    ),
    "ISCIN": (
        (
            "st & t abnorm, wahrscheinlich    inferiore ischÄmie oder linksbelastung",
            "t abnorm in inferioren ableitungen",
        ),
        (
            "st segments are depressed in ii, iii, avf. non-specific but consistent with myocardial ischaemia.|STD_",
            "t waves are inverted in ii, iii, avf. non-specific but consistent with myocardial ischaemia.|INVT",
        ),
        ("st-t sÄnkning, sÅsom vid    inferior ischemi eller vÄnster belastning",),
    ),
    "ISCAS": (
        ("t abnorm in anteroseptalen ableitungen", "t abnorm in anterioren ableitungen"),
        ("t waves are inverted in v2,3,4. findings are likely to be due to ischaemic heart    disease.|INVT",),
        ("t-fÖrÄndring, sÅsom vid    anterior myokardaffektion",),
    ),
    "STD_": (
        ("st-senkung in v4-6", "st-senkung in v5-6"),
        ("minor non-specific st segment depression in v4,5,6.",),
        ("ospecifik st-fÖrÄndring",),
    ),
    "NDT": (
        ("unspezifisches abnormes t", "unspezifisches abnormales t"),
        ("non-specific t wave flattening in v4,5,6.", "minor non-specific t wave flattening in i, avl, v6.|NT_"),
        ("ospecifik t-fÖrÄndring",),
    ),
    "LOWT": (
        ("t abgeflacht|NDT",),
        ("t waves are low or flat throughout. myocardial ischaemia is likely.|NDT",),
        ("ospecifik t-fÖrÄndring|NDT",),
    ),
    "NST_": (
        ("unspezifische abnormale st-senkung",),
        ("non-specific st-t wave changes.", "minor non-specific st-t wave changes."),
        ("ospecifik st-fÖrÄndring ospecifik t-fÖrÄndring",),
    ),
    "LNGQT": (
        ("qt-verlÄngerung",),
        ("prolonged qt, this may be due to a drug effect or an    electrolyte disturbance.",),
        ("qt fÖrlÄngd",),
    ),
    "NORM": (
        ("normales ekg",),
        ("normal ecg.", "normal ecg.", "no definite pathology."),
        ("normalt ekg",),
    ),
    "otherwise NORM": (
        ("sonst normales ekg",),
        ("otherwise normal ecg.", "otherwise no definite pathology."),
        ("eljest normalt ekg",),
    ),
}
LANGUAGES = ("german", "english", "swedish")


def write_report(
    findings: Collection[str], language: str, rng: np.random.Generator
) -> tuple[str, dict[str, float], frozenset[str]]:
    """Writes the report of a set of findings, in the order in which the machines print them.

    Args:
        findings: Keys of the phrase table.
        language: One of `LANGUAGES`.
        rng: Generator that chooses among alternative phrases.

    Returns:
        The report, the likelihoods (in percent) of findings with a hedge, and the codes that the wording adds.
    """
    parts, likelihoods, added = [], {}, set()
    for finding, phrases in _PHRASES.items():
        if finding not in findings:
            continue
        choice = phrases[LANGUAGES.index(language)]
        text, _, codes = choice[rng.integers(len(choice))].partition("|")
        added.update(codes.split())
        parts += [text] if text else []
        hedges = [likelihood for hedge, likelihood in HEDGES.items() if hedge in text]
        if hedges:
            likelihoods[finding] = min(hedges)
    return " ".join(parts), likelihoods, frozenset(added)
