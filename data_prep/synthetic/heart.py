"""The physiological signal model of the synthetic archive.

The heart is modelled as one moving dipole (the vectorcardiogram). Each beat is a sum of Gaussians, each with its own
time, width and direction in space (McSharry et al. 2003, IEEE Trans. Biomed. Eng. 50:289; in three dimensions Sameni et
al. 2007, EURASIP J. Adv. Signal Process. 43407). Dower's lead field converts the dipole to the eight independent leads
(Dower, Machado, Osborne 1980, Clin. Cardiol. 3:87); the other four follow by Einthoven's and Goldberger's laws.

Axes are Frank's: x to the patient's left, y to the feet, z to the back; in millivolts. Times are in seconds from the
middle of the QRS complex. Codes are SCP codes of PTB-XL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

SECONDS = 10.0
VENTRICULAR, ATRIAL, REGULAR = "ventricular", "atrial", "regular"

LEAD_FIELD = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],  # V2
        [0.882, 0.098, -1.277],  # V3
        [1.213, 0.127, -0.601],  # V4
        [1.125, 0.127, -0.086],  # V5
        [0.831, 0.076, 0.230],  # V6
    ]
)
"""[8, 3] Dower's matrix, which converts x, y, z to the independent leads."""

# Weights [8, 9] of the electrodes RA, LA, LL, V1..V6 in each independent lead (V against Wilson's central terminal).
MONTAGE = np.zeros((8, 9))
MONTAGE[0, [1, 0]] = 1, -1
MONTAGE[1, [2, 0]] = 1, -1
MONTAGE[2:, 3:] = np.eye(6)
MONTAGE[2:, :3] = -1 / 3


def _waves(*rows: Sequence[float]) -> np.ndarray:
    """Builds Gaussians [n, 5] from rows of time and width, given in ms and stored in s, and x, y, z in mV."""
    return np.array(rows, dtype=np.float64).reshape(-1, 5) * (1e-3, 1e-3, 1, 1, 1)


# The loops follow population means of the vectorcardiogram in each condition, rounded by hand.
P = _waves((-165, 18, 0.025, 0.065, -0.025), (-134, 18, 0.035, 0.040, 0.020))
QRS = _waves(
    (-24, 7, -0.10, -0.06, -0.24), (-4, 8.5, 1.15, 0.52, 0.05), (9, 9, 0.15, 0.22, 0.66), (23, 9, -0.22, 0, 0.42)
)
T = _waves((120, 40, 0, 0, -0.04), (205, 48, 0.08, 0.04, -0.10), (258, 34, 0.17, 0.10, -0.11))
QRS_LBBB = _waves((-28, 15, 0.50, 0.15, 0.75), (2, 17, 0.50, 0.30, 1.45), (36, 16, 0.62, -0.12, 0.70))
T_LBBB = _waves((120, 45, -0.12, -0.04, -0.24), (235, 52, -0.22, -0.04, -0.52))
QRS_RBBB = _waves((-24, 7, -0.06, -0.04, -0.20), (-4, 8.5, 0.95, 0.36, -0.10), (10, 8, 0.05, 0.10, 0.18))
SLOW_RBBB = _waves((32, 11, -0.26, -0.02, -0.30), (54, 14, -0.42, -0.06, -0.50))
SLOW_IRBBB = _waves((39, 8.5, -0.30, -0.10, -0.40))
QRS_LAFB = _waves(
    (-24, 8, 0.04, 0.20, -0.18), (-5, 9, 0.92, 0.02, 0.02), (12, 10, 0.05, -0.66, 0.60), (26, 10, -0.10, -0.30, 0.28)
)
QRS_LPFB = _waves(
    (-24, 8, 0.16, -0.22, -0.16), (-4, 9, 0.42, 0.45, 0.05), (12, 11, -0.40, 0.85, 0.50), (26, 9, -0.16, 0.15, 0.30)
)
QRS_PACED = _waves((-34, 20, 0.10, -0.25, 0.35), (6, 22, 0.10, -0.85, 0.70), (48, 18, -0.25, -0.70, 0.35))
T_PACED = _waves((140, 50, 0.03, 0.16, -0.10), (255, 55, 0.08, 0.34, -0.30))
SPIKE = _waves((-86, 1.2, 0.6, 2.2, 0.8))


@dataclass(frozen=True)
class Beat:
    """The shape of a beat: Gaussians [n, 5] of (time, width, x, y, z).

    Attributes:
        p: Atrial wave; empty if the atria do not beat with the ventricles.
        qrs: Ventricular depolarisation, including the spike of a pacemaker.
        t: Repolarisation from the J point on, with its timing at an RR interval of one second.
    """

    p: np.ndarray
    qrs: np.ndarray
    t: np.ndarray


def _scaled(waves: np.ndarray, *factors: float) -> np.ndarray:
    """Multiplies the x, y, z of the waves by one factor or by three."""
    return waves * np.concatenate([[1, 1], np.broadcast_to(factors, 3)])


def _with(waves: np.ndarray, *rows: Sequence[float]) -> np.ndarray:
    return np.concatenate([waves, _waves(*rows)])


def _st(waves: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """Adds an ST segment displaced by (x, y, z) mV."""
    return _with(waves, (75, 24, x, y, z), (128, 30, x, y, z))


def shape(codes: Collection[str], strength: float = 1.0) -> Beat:
    """Builds the beat that shows the given findings.

    Args:
        codes: SCP codes; rhythm codes only determine whether there is a P wave.
        strength: Severity of the findings; 1 is typical.
    """
    beat = Beat(P, QRS, T)
    for code, change in _SHAPES.items():
        if code in codes:
            beat = change(beat, strength)
    return replace(beat, p=_waves()) if {"AFIB", "AFLT", "SVTAC"} & set(codes) else beat


def _infarct(q: tuple[float, float, float], t: tuple[float, float, float]) -> Callable[[Beat, float], Beat]:
    """Returns the change of an infarct: dead muscle no longer attracts the early vector (q), and T turns away (t)."""

    def change(beat: Beat, s: float) -> Beat:
        qrs = _with(beat.qrs, *((at, 8, *(s * v for v in q)) for at in (-20, -7)))
        return replace(beat, qrs=qrs, t=_with(beat.t, (245, 40, *(s * v for v in t))))

    return change


def _ischaemia(st: tuple[float, float, float], t: tuple[float, float, float]) -> Callable[[Beat, float], Beat]:
    def change(beat: Beat, s: float) -> Beat:
        return replace(beat, t=_with(_st(beat.t, *(s * v for v in st)), (248, 42, *(s * v for v in t))))

    return change


# Applied in this order: changes that replace the whole beat come first, then changes that add to it.
_SHAPES: dict[str, Callable[[Beat, float], Beat]] = {
    "PACE": lambda b, s: Beat(_waves(), np.concatenate([SPIKE, QRS_PACED]), T_PACED),
    "CLBBB": lambda b, s: replace(b, qrs=QRS_LBBB, t=T_LBBB),
    "LAFB": lambda b, s: replace(b, qrs=QRS_LAFB, t=_scaled(b.t, 0.8)),
    "LPFB": lambda b, s: replace(b, qrs=QRS_LPFB),
    "CRBBB": lambda b, s: replace(
        b,
        qrs=np.concatenate([QRS_RBBB if b.qrs is QRS else _scaled(b.qrs, 0.9, 0.9, 0.5), _scaled(SLOW_RBBB, s)]),
        t=_with(_scaled(b.t, 1, 0.9, 0.3), (240, 40, 0.03, 0, 0.16 * s)),
    ),
    "IRBBB": lambda b, s: replace(
        b, qrs=np.concatenate([_scaled(b.qrs, 1, 1, 0.75), _scaled(SLOW_IRBBB, 0.7 + 0.4 * s)])
    ),
    "IVCD": lambda b, s: replace(
        b, qrs=np.concatenate([b.qrs * (1.28, 1.28, 0.9, 0.9, 0.9), _waves((40, 11, 0.22, 0.12, 0.30))])
    ),
    "LVH": lambda b, s: replace(b, qrs=_scaled(b.qrs, 1 + 0.7 * s, 1 + 0.3 * s, 1 + 0.95 * s)),
    "RVH": lambda b, s: replace(
        b,
        qrs=_with(_scaled(b.qrs, 0.55, 1, 0.35), (16, 12, -0.65 * s, 0.35 * s, -0.60 * s)),
        t=_with(b.t, (240, 42, -0.05 * s, -0.10 * s, 0.28 * s)),
    ),
    "IMI": _infarct((0, -0.38, 0), (0.02, -0.22, 0)),
    "ILMI": _infarct((-0.30, -0.36, -0.06), (-0.20, -0.20, 0)),
    "ASMI": _infarct((-0.22, 0.02, 0.42), (0, 0, 0.34)),
    "ALMI": _infarct((-0.52, 0.04, 0.22), (-0.30, 0, 0.20)),
    "LMI": _infarct((-0.50, 0.10, -0.12), (-0.30, 0.02, 0)),
    "ISCAL": _ischaemia((-0.11, -0.02, -0.02), (-0.34, -0.06, 0.06)),
    "ISCIN": _ischaemia((0.01, -0.12, 0), (0.02, -0.28, 0)),
    "ISCAS": _ischaemia((-0.02, 0, 0.05), (-0.06, -0.02, 0.48)),
    "ISC_": _ischaemia((-0.11, -0.07, -0.02), (-0.32, -0.16, 0.04)),
    "STD_": _ischaemia((-0.14, -0.12, 0.08), (-0.04, -0.03, 0.04)),
    "NST_": _ischaemia((-0.06, -0.06, 0.04), (-0.10, -0.06, 0.06)),
    "NDT": lambda b, s: replace(b, t=_scaled(b.t, 0.55 - 0.5 * s)),
    "LOWT": lambda b, s: replace(b, t=_scaled(b.t, 0.25)),
    "INVT": lambda b, s: replace(b, t=_scaled(b.t, -0.75 * s, -0.6 * s, -0.6 * s)),
    "LNGQT": lambda b, s: replace(b, t=b.t * (1.22 + 0.12 * s, 1.25, 0.9, 0.9, 0.9)),
    "LAO/LAE": lambda b, s: replace(b, p=_waves((-168, 17, 0.03, 0.06, -0.02), (-116, 18, 0.075, 0.05, 0.11 * s))),
    "RAO/RAE": lambda b, s: replace(b, p=_with(_scaled(b.p, 1.1), (-160, 17, 0.0, 0.20 * s, -0.06 * s))),
}


def individual(beat: Beat, rng: np.random.Generator) -> Beat:
    """Varies a beat for one patient: every Gaussian changes a little in size, direction and width."""

    def vary(waves: np.ndarray) -> np.ndarray:
        return waves * np.exp(rng.normal(0, (0, 0.07, 0.14, 0.14, 0.14), size=waves.shape))

    return Beat(vary(beat.p), vary(beat.qrs), vary(beat.t))


def axis(beat: Beat, lead_field: np.ndarray) -> float:
    """Computes the electrical axis of the QRS in the frontal plane, in degrees (0 to the left, 90 to the feet).

    The slow terminal part of a bundle branch block is ignored, as in clinical use.
    """
    qrs = beat.qrs[beat.qrs[:, 0] < 0.03]
    area = qrs[:, 1] @ (qrs[:, 2:] @ lead_field[:2].T)
    one, avf = area[0], area[1] - area[0] / 2
    return float(np.degrees(np.arctan2(2 / np.sqrt(3) * avf, one)))


def body(rng: np.random.Generator, turn: float) -> np.ndarray:
    """Draws a patient's lead field [8, 3]: the heart turned clockwise by `turn` degrees, electrodes displaced."""
    frontal, other = np.radians(turn), np.radians(rng.normal(0, 7, size=2))
    field = LEAD_FIELD @ _turn(0, 1, frontal) @ _turn(0, 2, other[0]) @ _turn(1, 2, other[1])
    chest, shift = field[2:], rng.uniform(-0.3, 0.3)
    neighbour = np.roll(chest, 1 if shift < 0 else -1, axis=0)
    neighbour[0 if shift < 0 else -1] = chest[0 if shift < 0 else -1]
    field = np.concatenate([field[:2], (1 - abs(shift)) * chest + abs(shift) * neighbour])
    return field * np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.07, size=(8, 1)))


def _turn(a: int, b: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def tachogram(rng: np.random.Generator, spread: float, breath: float) -> Callable[[float], float]:
    """Draws the relative change of the RR interval as a function of time.

    Its spectrum has two peaks, around 0.1 Hz (LF) and at the breathing frequency `breath` (HF). Source: McSharry et al.
    2003, section II-A, with LF/HF power 0.5 and random phases. `spread` is the standard deviation.
    """
    frequency = np.arange(0.02, 0.5, 0.02)
    power = np.exp(-0.5 * ((frequency - 0.1) / 0.02) ** 2) / 3 + np.exp(-0.5 * ((frequency - breath) / 0.02) ** 2) / 1.5
    amplitude = spread * np.sqrt(2 * power / power.sum())
    phase = rng.uniform(0, 2 * np.pi, size=frequency.size)
    return lambda t: float(amplitude @ np.cos(2 * np.pi * frequency * t + phase))


def flutter_cycle(rate: float) -> float:
    """Returns the flutter cycle in seconds: about 290 cycles a minute, a whole number of them per ventricular beat."""
    return 60 / rate / max(2, round(290 / rate))


def rhythm(codes: Collection[str], rate: float, rng: np.random.Generator) -> list[tuple[float, float, str]]:
    """Draws the beats as (time, preceding RR interval, kind), from before the start of the record to after its end.

    Args:
        codes: SCP codes of rhythm and ectopy.
        rate: Beats per minute, without premature beats.
        rng: Generator that determines every interval.
    """
    mean = 60 / rate
    spread = 0.085 if "SARRH" in codes else 0.002 if {"SVTAC", "PACE"} & set(codes) else 0.022
    vary = tachogram(rng, spread, breath=rng.uniform(0.15, 0.3))
    flutter = flutter_cycle(rate)

    def interval(t: float) -> float:
        if "AFIB" in codes:
            return max(0.32, mean * float(rng.gamma(22, 1 / 22)))
        if "AFLT" in codes:
            return flutter * max(2, round(mean / flutter + rng.choice([-1, 0, 0, 0, 0, 1])))
        return mean * (1 + vary(t))

    kind = VENTRICULAR if "PVC" in codes else ATRIAL
    every = 2 if "BIGU" in codes else 3 if "TRIGU" in codes else 0
    single = {"PVC", "PAC"} & set(codes) and not every
    due = sorted(rng.uniform(0.5, SECONDS - 3.5, size=rng.integers(1, 4))) if single else []
    beats, t, conducted = [], -2.0 - rng.uniform(0, mean), 0
    while t < SECONDS + 1:
        rr, conducted = interval(t), conducted + 1
        if conducted == every or (due and due[0] < t):
            due, conducted = due[1:], 1
            premature = rr * rng.uniform(0.55, 0.70)
            beats.append((t + premature, premature, kind))
            # A ventricular beat does not reset the sinus node: the next beat comes at its regular time (full pause).
            rr = 2 * rr if kind == VENTRICULAR else premature + 1.05 * rr
            beats.append((t + rr, rr - premature, REGULAR))
        else:
            beats.append((t + rr, rr, REGULAR))
        t += rr
    return beats


def dipole(
    beat: Beat, beats: list[tuple[float, float, str]], delay: float, fs: int, rng: np.random.Generator
) -> np.ndarray:
    """Computes the moving dipole [T, 3] in mV at `fs`.

    The duration of repolarisation scales with the square root of the preceding RR interval (Bazett). The other waves
    keep their timing.

    Args:
        beat: Shape of the conducted beats.
        beats: Beats of the record, from `rhythm`.
        delay: Time by which P waves come earlier than usual, in seconds.
        fs: Sampling rate in Hz.
        rng: Generator that determines the origin of ectopic beats, and small changes from beat to beat.
    """
    origin = np.array([0.75, 0.25, 0.85]) * rng.choice([1, -1]) + rng.normal(0, 0.35, size=3)
    origin *= rng.uniform(1.0, 1.6) / np.linalg.norm(origin)
    other = origin[[0, 2, 1]]
    ectopic = Beat(
        p=_waves(),
        qrs=_waves((-32, 12, *(0.55 * origin)), (-4, 14, *origin), (30, 15, *(0.8 * other))),
        t=_waves((105, 38, *(-0.12 * origin)), (255, 55, *(-0.42 * origin))),
    )
    out = np.zeros((int(SECONDS * fs), 3))
    for at, rr, kind in beats:
        this = ectopic if kind == VENTRICULAR else beat
        p = this.p - (delay, 0, 0, 0, 0)
        p = _scaled(p, 1, rng.uniform(-0.8, 0.4), 1.3) if kind == ATRIAL else p
        t = this.t * (*(2 * [np.sqrt(np.clip(rr, 0.35, 1.4))]), 1, 1, 1)
        waves = _scaled(np.concatenate([p, this.qrs, t]), rng.normal(1, 0.025))
        # Effect of the recorder's low-pass filter before sampling: it widens a Gaussian and preserves its area.
        width = np.hypot(waves[:, 1], 0.4 / fs)
        samples = np.arange(max(0, round((at - 0.5) * fs)), min(len(out), round((at + 0.9) * fs)))
        bells = np.exp(-0.5 * (((samples / fs - at)[:, None] - waves[:, 0]) / width) ** 2)
        out[samples] += bells @ (waves[:, 2:] * (waves[:, 1] / width)[:, None])
    return out


def atria(codes: Collection[str], start: float, rate: float, fs: int, rng: np.random.Generator) -> np.ndarray:
    """Computes continuous atrial activity [T, 3] in mV: f waves of fibrillation, sawtooth waves of flutter; else zero.

    `start` is the time of a conducted beat, and `rate` is the ventricular rate.

    Source: harmonics of a varying frequency with a varying amplitude, Stridh and Sörnmo 2001, IEEE Trans. Biomed. Eng.
    48:105.
    """
    time = np.arange(int(SECONDS * fs)) / fs
    if "AFIB" in codes:
        wander = np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * time + rng.uniform(0, 6)) * rng.uniform(0.5, 2.0)
        cycle = 2 * np.pi * rng.uniform(5, 8) * time + wander
        swell = 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.1, 0.7) * time + rng.uniform(0, 6))
        size, harmonics = rng.uniform(0.02, 0.05), (1, 0.35, 0.15)
        direction = np.array([[-0.6], [0.7], [-0.6]]) + rng.normal(0, 0.25, size=(3, 1))
    elif "AFLT" in codes:
        # Conducted beats keep their place in the flutter cycle.
        cycle = 2 * np.pi * (time - start) / flutter_cycle(rate)
        swell, size, harmonics = np.ones_like(time), rng.uniform(0.08, 0.13), (1, 0.5, 0.33)
        direction = np.array([[-0.1], [-1.0], [-0.3]])
    else:
        return np.zeros((time.size, 3))
    teeth = sum(h * np.sin(k * cycle) for k, h in enumerate(harmonics, start=1))
    return (size * direction * swell * teeth).T


def noise(fs: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the noise of the nine electrodes [T, 9] in mV: drift, breathing, muscle, mains, amplifier."""
    samples = int(SECONDS * fs)
    time = np.arange(samples)[:, None] / fs
    frequency = rng.uniform(0.03, 0.5, size=4)
    size = 0.022 * np.exp(rng.normal(0, 0.5)) * np.sqrt(0.1 / frequency)[:, None] * np.exp(rng.normal(0, 0.5, size=9))
    phase, turn = rng.uniform(0, 2 * np.pi, size=(4, 9)), 2 * np.pi * frequency * time
    drift = np.sin(turn) @ (size * np.cos(phase)) + np.cos(turn) @ (size * np.sin(phase))
    # At 100 Hz the mains frequency is the Nyquist frequency, which the recorder's filter has removed.
    mains = rng.exponential(0.004) * np.sin(2 * np.pi * 50 * time + 0.3) * rng.uniform(0, 1, size=9) if fs > 100 else 0
    tension, burst = np.exp(rng.normal(0, 0.6, size=9)), 3 * (rng.random() < 0.1)
    muscle = 1 + burst * np.exp(-0.5 * ((time - rng.uniform(0, SECONDS)) / rng.uniform(0.3, 1)) ** 2)
    hiss = rng.standard_normal((samples + 1, 9))
    # Muscle noise has high frequencies, so it is the difference of neighbouring samples.
    return drift + mains + 0.0025 * tension * muscle * np.diff(hiss, axis=0) + 0.002 * hiss[1:]


def twelve_leads(independent: np.ndarray) -> np.ndarray:
    """Converts I, II, V1..V6 in mV [T, 8] to twelve leads in PTB-XL's order, int16 µV [T, 12].

    III is exactly II - I; aVR, aVL and aVF are rounded to the nearest microvolt (Goldberger).
    """
    whole = np.rint(independent * 1000)
    one, two = whole[:, :1], whole[:, 1:2]
    limb = np.concatenate([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    return np.clip(np.rint(np.concatenate([limb, whole[:, 2:]], axis=1)), -32767, 32767).astype(np.int16)


def record(
    beat: Beat,
    codes: Collection[str],
    lead_field: np.ndarray,
    rng: np.random.Generator,
    *,
    rate: float = 70.0,
    delay: float = 0.0,
    fs: int = 100,
) -> np.ndarray:
    """Generates ten seconds of a patient's ECG, int16 [T, 12], in µV and PTB-XL's lead order.

    Args:
        beat: Shape of the beat, from `shape`.
        codes: SCP codes of rhythm and ectopy (others are ignored here).
        lead_field: Lead field [8, 3], from `body`.
        rng: Generator that determines timing and noise.
        rate: Beats per minute.
        delay: Prolongation of the PR interval, in seconds.
        fs: Sampling rate in Hz.
    """
    beats = rhythm(codes, rate, rng)
    cardiac = dipole(beat, beats, delay, fs, rng) + atria(codes, beats[0][0], rate, fs, rng)
    return twelve_leads(cardiac @ lead_field.T + noise(fs, rng) @ MONTAGE.T)
