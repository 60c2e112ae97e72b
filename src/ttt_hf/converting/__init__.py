"""Checkpoints of other projects as folders of this one."""
