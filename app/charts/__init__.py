"""Charts of the dashboard: pure functions from a DataFrame to an ``altair`` chart, free of Streamlit."""
