"""The 71 SCP-ECG statements of PTB-XL: code, description, kind of statement and classes.

Source: Wagner et al. 2020, Scientific Data 7:154 (PTB-XL's `scp_statements.csv`).
"""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """One row of `scp_statements.csv`."""

    code: str
    description: str
    kinds: str
    """Kinds of the statement, of `diagnostic`, `form` and `rhythm`, separated by blanks."""
    diagnostic_class: str = ""
    diagnostic_subclass: str = ""


STATEMENTS = (
    Statement("NDT", "non-diagnostic T abnormalities", "diagnostic form", "STTC", "STTC"),
    Statement("NST_", "non-specific ST changes", "diagnostic form", "STTC", "NST_"),
    Statement("DIG", "digitalis-effect", "diagnostic form", "STTC", "STTC"),
    Statement("LNGQT", "long QT-interval", "diagnostic form", "STTC", "STTC"),
    Statement("NORM", "normal ECG", "diagnostic", "NORM", "NORM"),
    Statement("IMI", "inferior myocardial infarction", "diagnostic", "MI", "IMI"),
    Statement("ASMI", "anteroseptal myocardial infarction", "diagnostic", "MI", "AMI"),
    Statement("LVH", "left ventricular hypertrophy", "diagnostic", "HYP", "LVH"),
    Statement("LAFB", "left anterior fascicular block", "diagnostic", "CD", "LAFB/LPFB"),
    Statement("ISC_", "non-specific ischemic", "diagnostic", "STTC", "ISC_"),
    Statement("IRBBB", "incomplete right bundle branch block", "diagnostic", "CD", "IRBBB"),
    Statement("1AVB", "first degree AV block", "diagnostic", "CD", "_AVB"),
    Statement("IVCD", "non-specific intraventricular conduction disturbance (block)", "diagnostic", "CD", "IVCD"),
    Statement("ISCAL", "ischemic in anterolateral leads", "diagnostic", "STTC", "ISCA"),
    Statement("CRBBB", "complete right bundle branch block", "diagnostic", "CD", "CRBBB"),
    Statement("CLBBB", "complete left bundle branch block", "diagnostic", "CD", "CLBBB"),
    Statement("ILMI", "inferolateral myocardial infarction", "diagnostic", "MI", "IMI"),
    Statement("LAO/LAE", "left atrial overload/enlargement", "diagnostic", "HYP", "LAO/LAE"),
    Statement("AMI", "anterior myocardial infarction", "diagnostic", "MI", "AMI"),
    Statement("ALMI", "anterolateral myocardial infarction", "diagnostic", "MI", "AMI"),
    Statement("ISCIN", "ischemic in inferior leads", "diagnostic", "STTC", "ISCI"),
    Statement("INJAS", "subendocardial injury in anteroseptal leads", "diagnostic", "MI", "AMI"),
    Statement("LMI", "lateral myocardial infarction", "diagnostic", "MI", "LMI"),
    Statement("ISCIL", "ischemic in inferolateral leads", "diagnostic", "STTC", "ISCI"),
    Statement("LPFB", "left posterior fascicular block", "diagnostic", "CD", "LAFB/LPFB"),
    Statement("ISCAS", "ischemic in anteroseptal leads", "diagnostic", "STTC", "ISCA"),
    Statement("INJAL", "subendocardial injury in anterolateral leads", "diagnostic", "MI", "AMI"),
    Statement("ISCLA", "ischemic in lateral leads", "diagnostic", "STTC", "ISCA"),
    Statement("RVH", "right ventricular hypertrophy", "diagnostic", "HYP", "RVH"),
    Statement("ANEUR", "ST-T changes compatible with ventricular aneurysm", "diagnostic", "STTC", "STTC"),
    Statement("RAO/RAE", "right atrial overload/enlargement", "diagnostic", "HYP", "RAO/RAE"),
    Statement("EL", "electrolytic disturbance or drug (former EDIS)", "diagnostic", "STTC", "STTC"),
    Statement("WPW", "Wolf-Parkinson-White syndrome", "diagnostic", "CD", "WPW"),
    Statement("ILBBB", "incomplete left bundle branch block", "diagnostic", "CD", "ILBBB"),
    Statement("IPLMI", "inferoposterolateral myocardial infarction", "diagnostic", "MI", "IMI"),
    Statement("ISCAN", "ischemic in anterior leads", "diagnostic", "STTC", "ISCA"),
    Statement("IPMI", "inferoposterior myocardial infarction", "diagnostic", "MI", "IMI"),
    Statement("SEHYP", "septal hypertrophy", "diagnostic", "HYP", "SEHYP"),
    Statement("INJIN", "subendocardial injury in inferior leads", "diagnostic", "MI", "IMI"),
    Statement("INJLA", "subendocardial injury in lateral leads", "diagnostic", "MI", "AMI"),
    Statement("PMI", "posterior myocardial infarction", "diagnostic", "MI", "PMI"),
    Statement("3AVB", "third degree AV block", "diagnostic", "CD", "_AVB"),
    Statement("INJIL", "subendocardial injury in inferolateral leads", "diagnostic", "MI", "IMI"),
    Statement("2AVB", "second degree AV block", "diagnostic", "CD", "_AVB"),
    Statement("ABQRS", "abnormal QRS", "form"),
    Statement("PVC", "ventricular premature complex", "form"),
    Statement("STD_", "non-specific ST depression", "form"),
    Statement("VCLVH", "voltage criteria (QRS) for left ventricular hypertrophy", "form"),
    Statement("QWAVE", "Q waves present", "form"),
    Statement("LOWT", "low amplitude T-waves", "form"),
    Statement("NT_", "non-specific T-wave changes", "form"),
    Statement("PAC", "atrial premature complex", "form"),
    Statement("LPR", "prolonged PR interval", "form"),
    Statement("INVT", "inverted T-waves", "form"),
    Statement("LVOLT", "low QRS voltages in the frontal and horizontal leads", "form"),
    Statement("HVOLT", "high QRS voltage", "form"),
    Statement("TAB_", "T-wave abnormality", "form"),
    Statement("STE_", "non-specific ST elevation", "form"),
    Statement("PRC(S)", "premature complex(es)", "form"),
    Statement("SR", "sinus rhythm", "rhythm"),
    Statement("AFIB", "atrial fibrillation", "rhythm"),
    Statement("STACH", "sinus tachycardia", "rhythm"),
    Statement("SARRH", "sinus arrhythmia", "rhythm"),
    Statement("SBRAD", "sinus bradycardia", "rhythm"),
    Statement("PACE", "normal functioning artificial pacemaker", "rhythm"),
    Statement("SVARR", "supraventricular arrhythmia", "rhythm"),
    Statement("BIGU", "bigeminal pattern (unknown origin, SV or Ventricular)", "rhythm"),
    Statement("AFLT", "atrial flutter", "rhythm"),
    Statement("SVTAC", "supraventricular tachycardia", "rhythm"),
    Statement("PSVT", "paroxysmal supraventricular tachycardia", "rhythm"),
    Statement("TRIGU", "trigeminal pattern (unknown origin, SV or Ventricular)", "rhythm"),
)
