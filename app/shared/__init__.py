"""What at least three pages use (a test counts): the frame of a page, its link, figures and words.

May import :mod:`app.downloads`, :mod:`app.figures` and the table of pages. Start with :mod:`app.shared.page`.
"""
