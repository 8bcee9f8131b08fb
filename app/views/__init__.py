"""One folder per page, each with a line in :mod:`app.pages`; a page never imports another page.

Start with the ``view.py`` of a page.
"""
