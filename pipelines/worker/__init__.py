"""The process that computes jobs: the recorded workflow, progress, Ray, watchdog and live inspections.

May import experiments, stages and what lies below. Start with `process.py`, then `workflow.py`.
"""
