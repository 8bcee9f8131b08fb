"""Models that are built on the user's machine from published packages, one file per recipe."""
