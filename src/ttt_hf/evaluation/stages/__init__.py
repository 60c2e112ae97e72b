"""The stages of an evaluation, in order: answer, transcribe, judge, score."""
