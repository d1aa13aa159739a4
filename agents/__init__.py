"""Who decides: transcripts, policies, critics, confidence scores and the gate."""
