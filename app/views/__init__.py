"""The pages of the dashboard, one file each; Streamlit runs them as scripts."""
