"""Training data: shards, the frame store, camera paths and teachers."""
