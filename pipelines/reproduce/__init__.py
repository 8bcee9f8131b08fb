"""``vmoer reproduce``: a suite of specs computed one after another, and the document that says whether claims hold."""
