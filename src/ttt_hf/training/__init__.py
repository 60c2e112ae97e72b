"""Training recipes: complete, resumable entry points that go from nothing to a scored checkpoint."""
