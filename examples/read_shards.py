"""Streams shards with tf.data, and with grain where it is installed: `python examples/read_shards.py SHARDS`."""

import sys

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from etp_jax.shards.reader import Shards

folder, batch_size = sys.argv[1], 32

# tf.data: the folder is an ordinary TFDS data set.
builder = tfds.builder_from_directory(folder)
stream = builder.as_dataset(split="train", shuffle_files=True)
stream = stream.map(lambda record: {"ecg": tf.cast(record["ecg"], tf.float32) / 1000, "report": record["report"]})
batch = next(iter(stream.shuffle(1000).batch(batch_size).as_numpy_iterator()))
found = [f"tf.data {batch['ecg'].shape} {batch['ecg'].dtype}"]


class Source:
    """Random access by row, which is all that grain and PyTorch's DataLoader need; no TensorFlow."""

    def __init__(self, folder: str, split: str):
        """Opens a split."""
        self.split = Shards(folder).split(split)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict:
        ecg_TL = self.split.ecg(np.array([row]))[0]
        return {"ecg": ecg_TL.astype(np.float32) / 1000, "lead_mask": self.split.columns.lead_mask[row]}


source = Source(folder, "train")
found.append(f"random access {source[0]['ecg'].shape}")
try:
    import grain

    batches = grain.MapDataset.source(source).shuffle(seed=0).repeat().batch(batch_size)
    found.append(f"grain {batches[0]['ecg'].shape}")
except ImportError:
    found.append("grain is not installed")
print(f"{len(source)} training records: {', '.join(found)}")
