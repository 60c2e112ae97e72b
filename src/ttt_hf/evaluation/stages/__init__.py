"""The stages of an evaluation: answer, transcribe, judge, score."""
