"""What a download holds: tables and charts as files, and a ZIP of them.

May import :mod:`app.figures`, no Streamlit. Start with :mod:`app.downloads.files`.
"""
