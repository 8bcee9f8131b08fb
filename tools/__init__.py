"""Programs that make what ships with the project; they are not installed with it."""
