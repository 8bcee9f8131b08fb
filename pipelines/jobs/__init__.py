"""The queue and its clients: submit, watch and cancel jobs, ask for inspections, keep the disk in bounds.

Torch-free, as the dashboard imports it; may import data, the spec and settings. Start with `client.py`.
"""
