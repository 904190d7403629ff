"""End-to-end spoken conversation with models of the Mini-Omni2 family."""
