"""The recipe of the embedded checkpoint: a closed domain, free synthetic voices, a codec and a small model."""
