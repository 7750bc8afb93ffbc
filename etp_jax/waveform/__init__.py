"""FG-CLEP's waveform features: proposed for a report's statements, measured on the signal, restored to the report."""
