"""Embeds every ECG file of a folder: `python examples/embed_folder.py FOLDER OUT.npz`.

OUT.npz holds `files` [n], `features` [n, F] (for probes) and `embeddings` [n, E] (unit length, for similarity).
WFDB and EDF files name their sampling rate and unit; `--fs` and `--unit` are for files of bare numbers.
"""

import argparse
from pathlib import Path

import numpy as np

import etp_jax
from etp_jax.ecg.leads import Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from etp_jax.predict.run import records_in

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--run", help="run folder or exported encoder; by default the shipped encoder")
parser.add_argument("--fs", type=float, help="in Hz")
parser.add_argument("--unit", help="mV, uV or V; by default mV")
args = parser.parse_args()

model = etp_jax.load(args.run)
files, features, embeddings = [], [], []
for path in records_in(args.folder, besides=args.out):
    try:
        recording = read_signal(path, Layout(fs=args.fs, unit=args.unit))
        features.append(model.features(recording))
        embeddings.append(model.encode_ecg(recording))
        files.append(str(path.relative_to(args.folder)))
    except EtpError as error:
        print(f"left out: {path}: {error}")
if not files:
    raise SystemExit(f"{args.folder}: no ECG file that can be used")
np.savez(args.out, files=files, features=features, embeddings=embeddings)
print(f"{len(files)} ECGs: features {np.shape(features)}, embeddings {np.shape(embeddings)} in {args.out}")
