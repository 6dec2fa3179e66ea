"""Rivals in the same run: other programs that make a frame, timed by one clock."""
