"""What the user asks for: the YAML spec, the runs it expands to, the files it names.

Torch-free; may import settings and errors only. Start with `model.py`.
"""
