"""Tests figures in the sentences of pages: each sentence is made here of the lines of results/, and is on its page."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.helpers.claims import (
    FORM,
    FULL,
    HELD_OUT,
    PLAIN,
    RECALL,
    RECALL_BACK,
    RESTORED,
    RHYTHM,
    SMALL,
    SUB,
    SUPER,
    gain,
    line,
    loss,
    short,
    spread,
    value,
    whole,
)
from tests.helpers.pages import ROOT, TASKS, words


def fine_over_coarse() -> list[str]:
    pair, others = "fgclep_plus - fgclep_plus-coarse", TASKS[1:]
    gains = sorted(value(pair, task=task, prompts="waveform") for task in others)
    return [
        f"Zero-shot with `waveform` gains {whole(pair, prompts='waveform')} on superclasses, {gains[0]:.3f} to "
        f"{gains[-1]:.3f} on the other tasks.",
        f"`default` gains {whole(pair, prompts='default')} on superclasses and "
        f"{whole(pair, task=RHYTHM, prompts='default')} on rhythms; subclasses gain "
        f"{short(pair, task=SUB, prompts='default')}",
        f"`contrast` gains {short(pair, task=RHYTHM, prompts='contrast')} on rhythms",
    ]


def fgclep_fine_over_coarse() -> list[str]:
    """The pair is coarse minus fine, so what the fine stage gains is below zero."""
    pair, plus = "fgclep-coarse - fgclep-fine", "fgclep_plus - fgclep-fine"

    def turned(**columns: str) -> str:
        found = line(pair, **columns)
        return "{:.3f} [{:.3f}, {:.3f}]".format(*(-float(found[end]) for end in ("value", "high", "low")))

    def p_over_seeds(task: str, run: str = pair, **columns: str) -> float:
        return value(run, task=task, metric="macro_auroc_p_seeds", **columns or {"prompts": "waveform"})

    def whole_interval(task: str, **columns: str) -> tuple[float, float]:
        found = line(pair, task=task, **columns)
        return float(found["low"]), float(found["high"])

    seeds = sorted(-value(pair, prompts="waveform", seed=seed) for seed in "012")
    varied = [p_over_seeds(task) for task in (SUPER, FORM, RHYTHM)] + [p_over_seeds(SUPER, prompts="default")]
    varied += [p_over_seeds(task, fraction="1.0") for task in (SUB, FORM)] + [p_over_seeds(SUPER, plus)]
    held = [p_over_seeds(SUPER, prompts="contrast"), p_over_seeds(RHYTHM, fraction="1.0")]
    held += [p_over_seeds(SUPER, plus, **each) for each in ({"prompts": "default"}, {"prompts": "contrast"})]
    assert max(*held, p_over_seeds(SUPER, plus, fraction="1.0")) < 0.05 < min(varied)
    for task, columns in ((SUB, {"prompts": "waveform"}), (SUPER, {"fraction": "1.0"})):
        low, high = whole_interval(task, **columns)
        assert low < 0 < high
    return [
        f"gain {turned(prompts='waveform')}; the seeds gain {seeds[0]:.3f} to {seeds[2]:.3f}, so over seeds "
        f"the gain is within the variation (p = {p_over_seeds(SUPER):.2f}). `contrast` loses "
        f"{whole(pair, prompts='contrast')}; `default` loses {whole(pair, prompts='default')}, which is within",
        f"forms gain {loss(pair, task=FORM, prompts='waveform')} and rhythms "
        f"{loss(pair, task=RHYTHM, prompts='waveform')}, both within",
        f"Rhythms gain {turned(task=RHYTHM, fraction='1.0')}; subclasses gain "
        f"{loss(pair, task=SUB, fraction='1.0')} and forms {loss(pair, task=FORM, fraction='1.0')}, within",
        f"on superclasses by {whole(plus, prompts='default')} with `default`, {whole(plus, prompts='contrast')} with "
        f"`contrast`, and by {whole(plus, fraction='1.0')} in the probe with all labels. With `waveform` it has "
        f"{whole(plus, prompts='waveform')} more, within",
    ]


def last_checkpoints() -> list[str]:
    def later(stage: str, prompts: str) -> float:
        about = {"stem": "fgclep-checkpoints", "prompts": prompts}
        pairs = [[value(f"fgclep-{stage}, {of}", seed=seed, **about) for of in ("best", "latest")] for seed in "012"]
        return sum(latest - best for best, latest in pairs) / 3

    plain = sorted(later(stage, prompts) for stage in ("coarse", "fine") for prompts in PLAIN)
    coarse, fine = later("coarse", "waveform"), -later("fine", "waveform")
    return [
        f"are {gain(plain[0]):.3f} to {plain[-1]:.3f} better with plain prompts. With `waveform` they are "
        f"{gain(coarse):.3f} better (coarse) and {gain(fine):.3f} worse (fine)",
    ]


def ours_over_mets() -> list[str]:
    pair = "ptbxl - mets"
    return [
        f"`ptbxl` gains {whole(pair, prompts='contrast')} with prompts `contrast`, "
        f"{whole(pair, prompts='default')} with `default`, and {whole(pair, fraction='0.01')} in the probe at 1 %",
        f"do not differ on superclasses ({whole(pair, fraction='1.0')})",
        f"On rhythms `ptbxl` is {whole(pair, task=RHYTHM, fraction='1.0')} better.",
    ]


def seeds() -> list[str]:
    def greatest(run: str, prompts: tuple[str, ...]) -> str:
        return f"{max(spread(run, prompts=each) for each in prompts):.3f}"

    def probes(run: str) -> list[str]:
        return [f"{spread(run, (task,), fraction='1.0'):.3f}" for task in (SUPER, FORM)]

    plain, waveform = ("default", "contrast"), ("waveform",)
    of_super, of_form = probes("ptbxl")
    return [
        f"The three seeds of `ptbxl` differ by at most {greatest('ptbxl', plain)} in zero-shot (prompts `waveform`: "
        f"{greatest('ptbxl', waveform)}). In the probe at 100 % they differ by {of_super} on superclasses and by "
        f"{of_form} on `ptbxl-form`",
        f"Those of `fgclep_plus` differ by at most {greatest('fgclep_plus', plain)} (`waveform`: "
        f"{greatest('fgclep_plus', waveform)}), and in the probe by {' and '.join(probes('fgclep_plus'))}.",
    ]


def one_per_cent() -> list[str]:
    fitted = {task: value("ptbxl", task=task, fraction="0.01", metric="classes_fitted") for task in (RHYTHM, FORM, SUB)}
    return [
        f"A subset of 1 % holds on average {fitted[RHYTHM]:.1f} of the 12 rhythms, {fitted[FORM]:.1f} of the 19 forms "
        f"and {fitted[SUB]:.0f} of the 23 subclasses.",
        f"The {short('ptbxl', task=RHYTHM, fraction='0.01')} of rhythms is the mean of five subsets and three seeds.",
    ]


def without_training() -> list[str]:
    about = {"stem": "shipped", "encoder": "random", "prompts": "default"}
    found = [short("random encoder", task=task, **about) for task in ("cpsc2018", "mitbih-beats")]
    uncentred = [short("uncentred", task=task, fraction="1.0", **FULL) for task in (SUPER, FORM)]
    field = {"stem": "field-protocol", "task": FORM, "protocol": "ecg-fm-benchmark"}
    forms = {kind: short("shipped, fold 9", kind=kind, **field) for kind in ("probe", "finetune")}
    forms["supervised"] = short("shipped, fold 9", kind="finetune", encoder="supervised", **field)
    return [
        f"A random encoder of the same architecture reaches {' and '.join(found)} (`default`).",
        f"the probe of the `ptbxl` run reaches {uncentred[0]}.",
        f"is another: probe {uncentred[1]}, from scratch",
        f"the probe is lowest there too ({forms['probe']}, {forms['supervised']}, {forms['finetune']}).",
    ]


def own_protocol() -> list[str]:
    f1 = {
        run: [
            short(run, stem="mets-protocol", task=f"mets-{task}", prompts="contrast", metric="macro_f1")
            for task in ("super", "form", "rhythm")
        ]
        for run in ("mets", "ptbxl")
    }
    return [f"METS {' / '.join(f1['mets'])}, `ptbxl` {' / '.join(f1['ptbxl'])}."]


def plus_at_full_size() -> list[str]:
    recall = {run: [short(run, metric=metric, **FULL) for metric in (RECALL, RECALL_BACK)] for run in ("fine", "plain")}

    def more(task: str, prompts: str) -> float:
        old = value("uncentred", task=task, prompts=prompts, **FULL)
        return value("fine", task=task, prompts=prompts, seed="0", **FULL) - old

    gains = [f"{gain(more(SUPER, prompts)):.3f}" for prompts in (*PLAIN, "waveform")]
    losses = [f"{gain(-more(RHYTHM, prompts)):.3f}" for prompts in PLAIN]
    control = [value("fine - plain", prompts=prompts, **FULL) for prompts in ("contrast", RESTORED)]
    coarse = value("fine", prompts="default", **FULL) - value("coarse", prompts="default", **FULL)
    return [
        f"loses {gain(-control[0]):.3f} with `contrast`, and gains {gain(control[1]):.3f} on prompts with the ",
        f"Against its own coarse run it gains {gain(coarse):.3f} with `default`",
        f"The probe is {short('fine', fraction='1.0', **FULL)} with all labels, the control's too. Recall@10 from ECG "
        f"to report is {recall['fine'][0]} (control {recall['plain'][0]}), from report to ECG {recall['fine'][1]} "
        f"({recall['plain'][1]})",
        f"they gain {short('coarse - uncentred', prompts='contrast', **FULL)} on superclasses with `contrast`",
        f"the fine stage has {gains[0]} more on superclasses with `default`, {gains[1]} with `contrast` and {gains[2]} "
        f"with `waveform`, and {losses[0]} and {losses[1]} less on rhythms.",
        f"At half width it remains {loss('coarse-sigmoid - coarse', stem='fine-stage', prompts='default')} behind",
        f"at full size (above: {short('fine - plain', prompts=HELD_OUT, **FULL)} of "
        f"{short('fine - plain', prompts=RESTORED, **FULL)})",
    ]


def rhythms_on_fold_10() -> list[str]:
    lower, higher = (
        value("fgclep_plus", task=RHYTHM, prompts=prompts) - value("ptbxl", task=RHYTHM, prompts=prompts)
        for prompts in PLAIN
    )
    return [
        f"{gain(-lower):.3f} lower than those of `ptbxl` with `default`, {gain(higher):.3f} higher with `contrast`.",
    ]


def rhythm_classes() -> list[str]:
    def both(code: str, prompts: str = "default") -> tuple[str, str]:
        about = {"stem": "rhythm-classes", "task": RHYTHM, "metric": f"auroc: {code}", "prompts": prompts}
        return short("ptbxl", **about), short("fgclep_plus", **about)

    lost = {code: both(code) for code in ("STACH", "SVTAC", "SR")}
    gained = [both("AFIB"), both("AFIB", "contrast")]
    assert all(before > now for before, now in lost.values()) and all(before < now for before, now in gained)
    return [
        f"sinus tachycardia ({lost['STACH'][0]} before, {lost['STACH'][1]} now), supraventricular tachycardia "
        f"({', '.join(lost['SVTAC'])}) and sinus rhythm ({', '.join(lost['SR'])}), in seed 0; "
        f"atrial fibrillation gains ({', '.join(gained[0])}; with `contrast` {', '.join(gained[1])}).",
    ]


def plus_at_small_size() -> list[str]:
    probe = [short(run, fraction="1.0", **SMALL) for run in ("fine", "plain")]
    recall = {
        metric: [value(run, metric=metric, **SMALL) for run in ("fine", "plain")] for metric in (RECALL, RECALL_BACK)
    }
    (ours, theirs), (back, their_back) = recall.values()
    return [
        f"The probe is equal ({probe[0]} and {probe[1]} with all labels); recall@10 from ECG to report is "
        f"{gain(theirs - ours):.3f} lower than the control's ({ours:.3f} and {theirs:.3f}), just beyond the "
        f"goal of 0.02, and from report to ECG {gain(their_back - back):.3f} lower ({back:.3f} and {their_back:.3f}).",
    ]


def parts_of_plus() -> list[str]:
    about = {"stem": "fine-stage"}
    kept = [short("filter-none - share-0.5", prompts=prompts, **about) for prompts in ("waveform", HELD_OUT)]
    lost = {loss("filter-measurement - share-0.5", prompts=prompts, **about) for prompts in ("waveform", HELD_OUT)}
    assert len(lost) == 1
    return [
        f"without it waveform prompts gain {kept[0]} and held-out sentences {kept[1]}, with measured features alone "
        f"they lose {lost.pop()}.",
    ]


def levers() -> list[str]:
    about = {"stem": "coarse-stage"}
    return [
        f"are worth {loss('whole-reports - coarse', prompts='default', **about)} with `default`",
        f"gains {short('text-trained - whole-reports', metric=RECALL, **about)} in recall, loses another "
        f"{loss('text-trained - whole-reports', prompts='default', **about)} with `default`",
    ]


def small_fgclep() -> list[str]:
    about = {"stem": "fgclep-ablation"}

    def three(run: str, **columns: str) -> tuple[float, list[float]]:
        found = [value(run, seed=seed, **about, **columns) for seed in "012"]
        return sum(found) / 3, sorted(found)

    def cell(run: str, **columns: str) -> str:
        mean, (low, _, high) = three(run, **columns)
        return f"{mean:.3f} ({low:.3f}–{high:.3f})"

    def cells(run: str, *prompts: str, probe: bool = True) -> str:
        found = [cell(run, prompts=each) for each in prompts] + [cell(run, fraction="1.0")] * probe
        return " | ".join([*found[: len(prompts)], *["not run"] * (3 - len(prompts)), *found[len(prompts) :]])

    every = ("default", "contrast", "waveform")
    return [
        f"| coarse, softmax, semantic pairs, 4 epochs | {cells('softmax-semantic', *every)} |",
        f"| the same, sigmoid without bias (FG-CLEP's loss) | {cells('sigmoid-semantic', *every[:2])} |",
        f"| coarse, then fine, 2 epochs on restored reports | {cells('fine-both', *every)} |",
        f"| coarse, then 2 more epochs on the plain reports | {cells('fine-raw', *every)} |",
        f"Recall@10 of plain reports is {three('fine-both', metric=RECALL)[0]:.3f}, compared with "
        f"{three('fine-raw', metric=RECALL)[0]:.3f} after the same amount of training on plain reports and "
        f"{three('softmax-semantic', metric=RECALL)[0]:.3f} before.",
    ]


def summary_of_small_fgclep() -> list[str]:
    def mean(run: str, **columns: str) -> str:
        return f"{sum(value(run, seed=seed, stem='fgclep-ablation', **columns) for seed in '012') / 3:.3f}"

    def row(label: str, **columns: str) -> str:
        return f"| {label} | {mean('fine-raw', **columns)} | {mean('fine-both', **columns)} |"

    return [
        *(row(f"zero-shot, prompts `{each}`", prompts=each) for each in ("waveform", "default", "contrast")),
        row("probe, 100 %", fraction="1.0"),
        row("recall@10 of reports", metric=RECALL),
    ]


def two_protocols() -> list[str]:
    shares = ("0.01", "0.1", "1.0")
    gap = {
        (task, share): value("shipped", stem="shipped", task=task, fraction=share, protocol="merl-as-published")
        - value("shipped", stem="shipped", task=task, fraction=share)
        for task in TASKS
        for share in shares
    }
    close = [(SUPER, share) for share in shares] + [(RHYTHM, share) for share in shares[1:]] + [(FORM, "1.0")]
    others = {cell: each for cell, each in gap.items() if cell not in close}
    higher = others.pop((SUB, "0.01"))
    assert max(others.values()) < 0 < higher
    return [
        f"agree within {max(abs(gap[cell]) for cell in close):.3f} on superclasses and, from 10 % on, on rhythms; "
        "on forms they agree at 100 %.",
        f"the published protocol is up to {-min(others.values()):.3f} lower; on subclasses at 1 % it is {higher:.3f} ",
    ]


def text_prior() -> list[str]:
    def more(task: str, share: str) -> str:
        return short("shipped + text prior - shipped", stem="text-prior", task=task, fraction=share)

    return [
        f"at 1 % by {more(SUPER, '0.01')} (superclasses) to {more(FORM, '0.01')} (forms); at 10 % forms and rhythms "
        f"gain {more(FORM, '0.1')} and {more(RHYTHM, '0.1')}, that of rhythms"
    ]


def behind_softmax() -> list[str]:
    def mean(run: str, **columns: str) -> float:
        return sum(value(run, seed=seed, stem="fgclep-ablation", **columns) for seed in "012") / 3

    def lag(**columns: str) -> float:
        return mean("softmax-semantic", **columns) - mean("sigmoid-semantic", **columns)

    zero_shot = [lag(prompts=prompts) for prompts in ("default", "contrast")]
    return [
        f"is {zero_shot[0]:.2f} to {zero_shot[1]:.2f} behind softmax in zero-shot and {lag(fraction='1.0'):.3f} behind "
        "in the probe."
    ]


def beside_published() -> list[str]:
    def of(run: str, task: str, **columns: str) -> str:
        return short(run, stem="field-protocol", task=task, protocol="ecg-fm-benchmark", kind="probe", **columns)

    ours = [of("shipped, fold 10", task) for task in (SUPER, "ptbxl-all")]
    best = [of("ECGFounder, fold 10", task, encoder="published") for task in (SUPER, "ptbxl-all")]
    return [
        f"frozen and linear on fold 10, ours has {ours[0]} on superclasses and {ours[1]} on the 71 statements; the "
        f"best published one, ECGFounder, has {best[0]} and {best[1]},"
    ]


def card() -> list[str]:
    def chosen_by(seed: str) -> float:
        found = [
            value("fine", task=task, prompts=prompts, seed=seed, **FULL)
            for task in TASKS
            for prompts in ("default", "contrast")
        ]
        found += [value("fine", fraction=share, seed=seed, **FULL) for share in ("0.01", "0.1", "1.0")]
        return sum(found) / len(found)

    means = [f"{chosen_by(seed):.3f}" for seed in "012"]
    thresholds = json.loads((ROOT / "etp_jax/pretrained/calibration.json").read_text())["thresholds"]
    about = {"stem": "groups-and-conditions", "kind": "demographics", "task": "", "encoder": "trained"}
    age = line("shipped", **about, metric="age_mae")
    ends = "{:.1f} [{:.1f}, {:.1f}]".format(*(float(age[end]) for end in ("value", "low", "high")))
    return [
        f"({means[0]}, {means[1]} and {means[2]}; `results/fgclep-plus-full.csv`",
        f"AUROC of {whole('shipped', **about, metric='sex_auroc')}, and age with a mean absolute error of {ends} "
        f"years; the training records' median age for everyone gives "
        f"{value('shipped', **about, metric='age_mae_of_median'):.1f}.",
        "; ".join(
            f"{count} {of} {' and '.join(whole('shipped', stem='shipped', task=task, prompts=each) for each in PLAIN)}"
            for task, count, of in (
                ("cpsc2018", "155 ECGs of", "CPSC2018"),
                ("mitbih-beats", "2,139 windows of 12", "MIT-BIH records (2 leads, types of beats)"),
            )
        ),
        ", ".join(
            f"{name} {threshold['precision']:.2f} / {threshold['sensitivity']:.2f}"
            for name, threshold in (
                ("normal ECG", thresholds["ptbxl-super"]["NORM"]),
                ("infarction", thresholds["ptbxl-super"]["MI"]),
                ("atrial fibrillation", thresholds["ptbxl-rhythm"]["AFIB"]),
                ("complete left bundle branch block", thresholds["ptbxl-sub"]["CLBBB"]),
                ("ventricular premature beats", thresholds["ptbxl-form"]["PVC"]),
                ("right ventricular hypertrophy", thresholds["ptbxl-sub"]["RVH"]),
                ("right atrial enlargement", thresholds["ptbxl-sub"]["RAO/RAE"]),
            )
        ),
    ]


@pytest.mark.parametrize(
    ("page", "sentences"),
    [
        ("README.md", beside_published),
        ("docs/results.md", fine_over_coarse),
        ("docs/results.md", fgclep_fine_over_coarse),
        ("docs/results.md", last_checkpoints),
        ("docs/results.md", ours_over_mets),
        ("docs/results.md", seeds),
        ("docs/results.md", one_per_cent),
        ("docs/results.md", without_training),
        ("docs/results.md", own_protocol),
        ("docs/results.md", two_protocols),
        ("docs/fgclep.md", behind_softmax),
        ("results/text-prior.md", text_prior),
        ("docs/fgclep.md", plus_at_full_size),
        ("docs/fgclep.md", rhythms_on_fold_10),
        ("docs/fgclep.md", rhythm_classes),
        ("docs/fgclep.md", plus_at_small_size),
        ("docs/fgclep.md", summary_of_small_fgclep),
        ("results/ablations.md", parts_of_plus),
        ("results/ablations.md", levers),
        ("results/ablations.md", small_fgclep),
        ("etp_jax/pretrained/MODEL_CARD.md", card),
    ],
)
def test_a_page_has_the_figures_of_results(page: str, sentences: Callable[[], list[str]]) -> None:
    text = words(page)
    for sentence in sentences():
        assert sentence in text
