"""Run the services: the dashboard's process, its login, health and metrics, and the demo.

May import the worker and what lies below. Start with `processes.py`.
"""
