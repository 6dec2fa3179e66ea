"""Video in and out: readers, writers, frame sizes and contact sheets."""
