"""The page in the browser (optional): `python -m slm app` opens it. It needs streamlit."""
