"""`etp bench`: speed of the training step, the encoder and the reader, compared with the peak of the device."""
