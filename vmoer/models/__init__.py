"""Where a model comes from: bundled names, folders, the hub, GGUF files, and the checks before a file is read.

May import architectures and the modules below them. Start with `catalog.py`.
"""
