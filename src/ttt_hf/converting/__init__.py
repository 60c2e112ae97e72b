"""Converts checkpoints and codecs of other projects into folders of this one."""
