"""Reports: cleaning, leak removal, translation, and the honesty of the coverage figures."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.data_prep import build
from etp_jax.data_prep import reports as reports
from etp_jax.data_prep.reports import Coverage, clean_report, coverage, load_glossary, read_glossary
from etp_jax.errors import EtpError

TAIL = " 4.46                          unbestÄtigter bericht"


@pytest.mark.parametrize(
    ("original", "statements"),
    [
        ("sinusrhythmus lagetyp normal normales ekg" + TAIL, "sinus rhythm|normal axis|normal ECG"),
        ("sinus rhythm. normal ecg.", "sinus rhythm|normal ECG"),
        ("sinusrytm normalt ekg", "sinus rhythm|normal ECG"),
        ("schrittmacher ekg" + TAIL, "pacemaker ECG"),
        (
            "sinusrhythmus ueberdrehter linkstyp qrs(t) abnorm    inferiorer infarkt     alter unbest.    "
            "anteroseptaler myokardschaden nicht auszuschliessen",
            "sinus rhythm|left axis deviation|abnormal QRS(T)|inferior myocardial infarction, age undetermined|"
            "anteroseptal myocardial damage cannot be excluded",
        ),
        (
            "sinusrhythmus verdacht auf p-sinistrocardiale linkstyp st & t abnorm, wahrscheinlich    "
            "anterolaterale ischÄmie oder linksbelastung    inferolaterale ischÄmie oder linksbelastung",
            "sinus rhythm|suspected left atrial enlargement|leftward axis|ST-T abnormality|"
            "probable anterolateral ischemia or left ventricular strain|"
            "probable inferolateral ischemia or left ventricular strain",
        ),
        (
            "sinusbradykardie mÄssige amplitudenkriterien fÜr linkshypertrophie unvollstÄndiger rechtsschenkelblock",
            "sinus bradycardia|moderate voltage criteria for left ventricular hypertrophy|"
            "incomplete right bundle branch block",
        ),
        (
            "sinusrhythmus llt av-block 1.grades chron. inferiorer infarkt mÖglich neg. t in iii,avf ekg pathologisch",
            "sinus rhythm|leftward axis|first-degree AV block|possible chronic inferior myocardial infarction|"
            "T waves are inverted in III, aVF|abnormal ECG",
        ),
        (
            "supraventrikulÄr(a) extrasystoli(er) sinusrytm extrem vÄnster el-axel vÄnster anteriort hemiblock "
            "avvikande qrs(t) fÖrlopp    hÖg lateral infarkt     bÖr ÖvervÄgas",
            "premature supraventricular complexes|sinus rhythm|left axis deviation|left anterior fascicular block|"
            "abnormal QRS(T)|possible high lateral myocardial infarction",
        ),
        ("pr interval is normal. left axis deviation.", "PR interval is normal|left axis deviation"),
        (
            "sinus rhythm. st segments are depressed in i, ii, avl, v4,5,6. this may be due to lv strain or    "
            "ischaemia. voltages are high in limb leads suggesting lvh.",
            "sinus rhythm|ST segments are depressed in I, II, aVL, V4-V6|"
            "this may be due to left ventricular strain or ischemia|"
            "voltages are high in limb leads suggesting left ventricular hypertrophy",
        ),
    ],
)
def test_translates_into_statements_in_their_order(original: str, statements: str) -> None:
    cleaned = clean_report(original)
    assert cleaned.statements == tuple(statements.split("|"))
    assert cleaned.report == statements.replace("|", ". ")
    assert cleaned.unknown == ()


@pytest.mark.parametrize(
    "originals",
    [
        ("rechtsschenkelblock", "right bundle branch block.", "hÖgersidigt skÄnkelblock", "rsb"),
        ("linksanteriorer hemiblock", "left anterior fascicular block.", "vÄnster anteriort hemiblock", "lahb"),
        ("linkshypertrophie", "left ventricular hypertrophy.", "vÄnster kammarhypertrofi", "lvh"),
        ("vorhofflimmern/-flattern", "atrial fibrillation/flutter", "fÖrmaksflimmer/-fladder"),
        ("tachykardes vorhofflimmern", "atrial fibrillation with rapid ventricular response.",
         "fÖrmaksflimmer med hÖg kammarfrekvens"),
        ("ves", "premature ventricular contraction(s).", "ventrikulÄr(a) extrasystoli(er)"),
        ("qt-verlÄngerung", "prolonged qt.", "qt fÖrlÄngd"),
        ("periphere niederspannung", "low limb lead voltage.", "lÅga qrs amplituder i extremitetsavledningarna"),
        ("st-senkung in v5-6", "st segments are depressed in v5,6.", "st-senkung Über v5,v6"),
        ("pathologisches ekg", "path. ekg", "ekg pathologisch", "pathologsiches ekg"),
    ],
)  # fmt: skip
def test_equal_findings_get_equal_words(originals: tuple[str, ...]) -> None:
    assert len({clean_report(original).report for original in originals}) == 1, [clean_report(o) for o in originals]


def test_spellings_of_umlauts_do_not_matter() -> None:
    spellings = ["unvollstÄndiger rechtsschenkelblock", "unvollständiger rechtsschenkelblock"]
    spellings += ["unvollstaendiger rechtsschenkelblock", "UNVOLLSTÄNDIGER  RECHTSSCHENKELBLOCK"]  # decomposed
    assert {clean_report(text).report for text in spellings} == {"incomplete right bundle branch block"}
    assert clean_report("mÄssige amplitudenkriterien f#r linkshypertrophie").unknown == ()


@pytest.mark.parametrize(
    ("original", "kept"),
    [
        ("sinusrhythmus keine anzeichen fuer le", "no signs of pulmonary embolism"),
        ("supraventrikulÄre extrasystole(n), trigeminus ohne kompensatorische pause", "without compensatory pause"),
        ("t-veraenderungen keine hinweise fuer frischen infarkt", "no evidence of recent infarction"),
        ("inga tecken pÅ ischemi eller myokardskada", "no signs of ischemia or myocardial damage"),
        ("sinus rhythm. no definite pathology.", "no definite pathology"),
        ("septaler infarkt nicht auszuschliessen", "septal myocardial infarction cannot be excluded"),
        ("inferior myokardskada kan ej uteslutas", "inferior myocardial damage cannot be excluded"),
        ("linkshypertrophie mÖglich", "possible left ventricular hypertrophy"),
        ("anteroseptaler infarkt     mÖgl. akut", "possibly acute anteroseptal myocardial infarction"),
        ("wahrscheinlich normales ekg", "probably normal ECG"),
        ("misstÄnkt vÄnster kammarhypertrofi", "suspected left ventricular hypertrophy"),
    ],
)
def test_negation_and_uncertainty_survive(original: str, kept: str) -> None:
    assert kept in clean_report(original).report


def test_only_whole_tokens_are_translated() -> None:
    assert clean_report("minimal st depression").statements == ("minimal ST segment depression",)
    assert clean_report("xlvhx elvh").report == "xlvhx elvh"
    assert clean_report("supraventrikulaerextra").unknown == ("supraventrikulaerextra",)


@pytest.mark.parametrize(
    "tail",
    [
        "consensus label derived from: {'IMI': 15.0, 'SR': 0.0},{'NST_': 100.0}",
        " Consensus label derived from: {'IMI': 15.0}",
        " Edit: LVH 100, ISC_, (IMI 15)",
        "edit: NORM 80",
        TAIL,
        TAIL + " Edit: ILMI 100, LVH 50",
        " 4.46                          unbestÄ",
        " 4.46              ",
    ],
)
def test_label_and_device_tails_go(tail: str) -> None:
    cleaned = clean_report("sinusrhythmus rechtstyp" + tail)
    assert cleaned.statements == ("sinus rhythm", "rightward axis")
    assert (cleaned.tokens, cleaned.unknown) == (2, ())


@pytest.mark.parametrize("original", ["", "   ", "trace only requested.", "trace only requested. Edit: IMI 50"])
def test_reports_without_findings_become_empty(original: str) -> None:
    cleaned = clean_report(original)
    assert (cleaned.report, cleaned.statements, cleaned.unknown) == ("", (), ())


def test_cut_off_report_loses_its_unfinished_statement() -> None:
    whole = "sinus rhythm. " + "low limb lead voltage. " * 9
    cut = (whole + "old inferior infarct cannot be excluded. normal ecg.")[:255]
    assert len(cut) == 255
    assert not cut.endswith("excluded.")
    assert clean_report(cut).statements == ("sinus rhythm", "low limb lead voltage")
    assert clean_report(cut).unknown == ()
    assert clean_report(cut[:254] + ".").statements[-1].startswith("old inferior myocardial infarction")
    assert clean_report(cut[:240]).statements[-1].startswith("old inferior")


def test_unknown_words_stay_and_are_counted() -> None:
    cleaned = clean_report("sinusrhythmus quatschwelle in v2, iii 0,12 sec. quatschwelle")
    assert cleaned.unknown == ("quatschwelle", "quatschwelle")
    assert cleaned.tokens == 5
    assert cleaned.report == "sinus rhythm quatschwelle in V2, III 0,12 s. quatschwelle"


def test_coverage_counts_tokens_by_record_and_reports_once() -> None:
    known, unknown = "sinusrhythmus lagetyp normal", "sinusrhythmus quatsch"
    got = coverage([known, known, unknown])
    assert got == Coverage(reports=2, tokens=8, token_share=7 / 8, report_share=1 / 2)
    assert coverage([]) == Coverage(reports=0, tokens=0, token_share=1.0, report_share=1.0)


@pytest.mark.parametrize(
    ("original", "leads"),
    [
        ("v4,5,6", "V4-V6"),
        ("v4, v5, v6", "V4-V6"),
        ("v4-6", "V4-V6"),
        ("v4 -v6", "V4-V6"),
        ("v 4 + 5", "V4, V5"),
        ("v1 und v2", "V1, V2"),
        ("v2,4-6", "V2, V4-V6"),
        ("v3-4-5-6", "V3-V6"),
        ("i - iii, avf, v1", "I, II, III, aVF, V1"),
    ],
)
def test_leads_have_one_spelling(original: str, leads: str) -> None:
    assert clean_report(f"t waves are inverted in {original}.").statements == (f"T waves are inverted in {leads}",)


def test_a_ratio_after_a_lead_is_no_lead() -> None:
    assert clean_report("q waves in v4, 2:1 av block.").statements == ("Q waves in V4, 2:1 AV block",)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 6), min_size=1), st.sampled_from([",", ", ", " + ", ", v", "/"]))
def test_chest_leads_name_exactly_those_written(leads: set[int], separator: str) -> None:
    written = "v" + separator.join(str(lead) for lead in sorted(leads))
    found: set[int] = set()
    for first, last in re.findall(r"V(\d)(?:-V(\d))?", clean_report(f"q waves in {written}.").report):
        found |= set(range(int(first), int(last or first) + 1))
    assert found == leads


def test_glossary_is_english_on_its_english_side() -> None:
    rows = read_glossary()
    words = {source: set(re.findall(r"[a-z]+", text.lower())) for _, source, text in rows}
    translated = {source for language, source, _ in rows if language != "en" and source not in words[source]}
    assert len(load_glossary().english) > 500
    assert set().union(*words.values()) & translated == set()
    assert all(text.isascii() for _, _, text in rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("de\tsinusrhythmus", "line 2: must be language"),
        ("fr\trythme sinusal\tsinus rhythm", "line 2: must be language"),
        ("de\tq-zacke\tQ wave\nde\tq zacke\tQ wave", "line 3: 'q zacke' occurs twice"),
    ],
)
def test_malformed_glossary_is_named(line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glossary.tsv").write_text("language\tsource\tenglish\n" + line + "\n", encoding="utf-8")
    monkeypatch.setattr(reports.resources, "files", lambda _: tmp_path)
    load_glossary.cache_clear()
    with pytest.raises(EtpError, match=message):
        load_glossary()
    load_glossary.cache_clear()


def test_translation_1_gives_its_200_golden_statements() -> None:
    """A change here is another `build.TRANSLATION`: shards of the old one are no longer those of the new."""
    assert build.TRANSLATION == 1
    path = Path(__file__).parents[1] / "data" / "golden_translations.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        golden = list(csv.DictReader(file, delimiter="\t"))
    assert len(golden) == 200
    for row in golden:
        assert " | ".join(clean_report(row["original"]).statements) == row["statements"]
