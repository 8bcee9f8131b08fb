"""What stands before the pages: security headers, the login, and fast delivery of Streamlit's own files.

May import :mod:`app.shared`. Start with :mod:`app.server`, which puts them together.
"""
