"""Fast execution on CPUs: the parts of a model compiled by OpenVINO, with weights in int8 or bfloat16.

Nothing outside this folder knows of it but the one place that loads models (`omni2.omni`).
"""
