"""Questions and prompts: files, the hub and the built-in set, in one form.

Torch-free; may import the spec and settings. Start with `questions.py`.
"""
