"""Sharing on the Hub: a model with its card and scores, and a Space in which others talk to it."""

from .model_folders import ModelUpload, prepare_model, push_model_folder
from .spaces import prepare_space, push_space


__all__ = ["ModelUpload", "prepare_model", "prepare_space", "push_model_folder", "push_space"]
