"""Names of leads and units, as devices, archives and people write them."""

from __future__ import annotations

import pytest

from etp_jax.ecg.leads import LEADS, lead_of, leads_of, split_unit, unit_of
from etp_jax.errors import EtpError


@pytest.mark.parametrize(
    "names",
    [
        "I II III aVR aVL aVF C1 C2 C3 C4 C5 C6",
        "D1 D2 D3 aVR aVL aVF V1 V2 V3 V4 V5 V6",
        "DI DII DIII VR VL VF v1 v2 v3 v4 v5 v6",
        "I II III aVR+ aVL+ aVF+ V01 V02 V03 V04 V05 V06",
        " ".join(f"MDC_ECG_LEAD_{lead}" for lead in LEADS),
        " ".join(f"MDC_ECG_LEAD_{lead.upper()}" for lead in LEADS),
        " ".join(f"ECG-{lead}" for lead in LEADS),
        " ".join(f"ECG_{lead}" for lead in LEADS),
        " ".join(f"{lead}-REF" for lead in LEADS),
        " ".join(f"{lead}_uV" for lead in LEADS),
        " ".join(f"{lead}[µV]" for lead in LEADS),
        " ".join(f"lead_{lead}" for lead in LEADS),
        " ".join(f"Lead{lead}" for lead in LEADS),
    ],
)
def test_twelve_leads(names: str) -> None:
    assert tuple(leads_of(names.split())) == LEADS


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("Lead 1", "I"),
        ("lead3", "III"),
        ("EKG II", "II"),
        ("Ableitung V2", "V2"),
        ("Einthoven III", "III"),
        ("a VR", "aVR"),
        ("V-1", "V1"),
        ("V 6", "V6"),
        ("aVF (μV)", "aVF"),
        ("ECG V1 (mV)", "V1"),
        ("Rhythm II", "II"),
        ("II_rhythm", "II"),
        ("Rhythm strip II", "II"),
        ("II (2)", "II"),
        ("II.1", "II"),
        ("'MLII'", "II"),
        ("\u2161", "II"),
        ("\uff36\uff11", "V1"),
        ("I..mV.", "I"),  # as R writes `I (mV)`
        ("aVR in mV", "aVR"),
        ("\u2212aVR", None),
        ("-aVR", None),
        ("aVR-", None),
        ("Lead -aVR", None),
        ("1", None),
        ("L1", None),
        ("ECG", None),
        ("ECG1", None),
        ("D4", None),
        ("C7", None),
        ("C3-A2", None),
        ("EEG C3", None),
        ("M1", None),
    ],
)
def test_single_names(name: str, lead: str | None) -> None:
    assert lead_of(name) == lead


def test_names_that_only_the_others_explain() -> None:
    assert leads_of(["Fp1", "C3", "C4", "O1", "ECG II"]) == [None, None, None, None, "II"]
    assert leads_of(["ECG I", "C3", "C4"]) == ["I", None, None]
    assert leads_of(["II", "C3", "EOG left"]) == ["II", None, None]
    with pytest.raises(EtpError, match="Lead 1 Lead 2 Lead 3 Lead 4 are numbers of channels; name the leads"):
        leads_of([f"Lead {number}" for number in range(1, 5)])


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("mV", "mV"),
        ("mv", "mV"),
        ("\u33b7", "mV"),
        ("\u33b6", "uV"),
        ("MV", "mV"),
        ("millivolts", "mV"),
        ("uV", "uV"),
        ("UV", "uV"),
        ("µV", "uV"),
        ("μV", "uV"),
        ("microvolt", "uV"),
        ("V", "V"),
        ("volts", "V"),
        ("nV", "nV"),
        ("NU", None),
        ("bpm", None),
        ("kV", None),
        ("", None),
    ],
)
def test_units(text: str, unit: str | None) -> None:
    assert unit_of(text) == unit


def test_units_in_names() -> None:
    assert split_unit("I (mV)") == ("I", "mV")
    assert split_unit("aVR_uV") == ("aVR", "uV")
    assert split_unit("V1 [V]") == ("V1", "V")
    assert split_unit("V1") == ("V1", None)
    assert split_unit("II (2)") == ("II (2)", None)


def test_c3_and_c4_alone_are_electrodes_of_the_head() -> None:
    assert leads_of(["C3", "C4", "II"]) == [None, None, "II"]
    assert leads_of(["C1", "C3", "C4", "II"]) == ["V1", "V3", "V4", "II"]
