"""An archive in PTB-XL's layout, made up: heart beats, reports and their codes."""
