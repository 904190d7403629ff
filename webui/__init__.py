"""The web pages: Streamlit's, the parts of Gradio's, and the browser client in `live/`."""
