"""Charts that more than one page draws, and how a chart becomes the specification that is drawn or saved.

May import ``vmoer.metrics`` only, no Streamlit. Start with :mod:`app.figures.parts`.
"""
