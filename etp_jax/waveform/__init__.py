"""FG-CLEP's waveform features: proposed for report statements, measured on the signal, added to the reports."""
