"""The `ttt-hf` command. Modules here import torch and transformers only inside the verb that needs them."""
