"""The recipe of the embedded checkpoint, from scratch: closed-domain data, free synthetic voices, codec, model."""
