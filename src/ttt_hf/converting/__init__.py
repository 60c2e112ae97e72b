"""Checkpoints and codecs of other projects as folders of this one."""
