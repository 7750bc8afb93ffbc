#!/usr/bin/env bash
# A task of one's own, from files to predictions: `examples/own_task.sh OUT`. docs/own-task.md explains each step.
# The ECGs are made up here: a folder of .npy files and a table that names them. Bring your own in their place.
set -euo pipefail
out="$1" records="${2:-240}"
mkdir -p "$out/ecgs"

python - "$out" "$records" <<'END'
import csv, sys
from pathlib import Path

import numpy as np
from etp_jax.data_prep.synthetic.archive import write_archive
from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.wfdb import read_wfdb

out, records = Path(sys.argv[1]), int(sys.argv[2])
write_archive(out / "archive", records)
with (out / "archive/ptbxl_database.csv").open() as file, (out / "ecgs/ecgs.csv").open("w", newline="") as table:
    writer = csv.writer(table)
    writer.writerow(["file", "patient", "report", "codes"])
    for row in csv.DictReader(file):
        recording = read_wfdb(out / "archive" / row["filename_lr"])
        name = f"ecg{int(row['ecg_id']):04d}.npy"
        np.save(out / "ecgs" / name, recording.signal / 1000)  # [time, 12] in mV
        codes = [code for code in ("SR", "STACH", "SBRAD", "AFIB") if f"'{code}'" in row["scp_codes"]]
        writer.writerow([name, row["patient_id"], "", ";".join(codes)])
END

etp="python -m etp_jax --quiet"
$etp prep table --csv "$out/ecgs/ecgs.csv" --signal-column file --report-column report --label-column codes \
    --patient-column patient --fs 100 --unit mV --out "$out/shards"
$etp shards check "$out/shards"
$etp tasks new --shards "$out/shards" --out "$out/own.json"
$etp tasks lint "$out/own.json" --shards "$out/shards"
cd "$out" # results of the shipped encoder are written to ./evaluation
$etp evaluate zero-shot --run shipped --shards shards --task own.json
$etp evaluate probe --run shipped --shards shards --task own.json
$etp predict ecgs/ecg0001.npy --fs 100 --task own.json --out predicted
echo "own task: figures in $out/evaluation, a page in $out/predicted"
