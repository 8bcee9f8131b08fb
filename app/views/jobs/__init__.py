"""Jobs: a form that starts an experiment, and the state of those in the queue.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
