"""`etp bench`: the speed of the training step, the encoder and the reader, against what the device can do."""
