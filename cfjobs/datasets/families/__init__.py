"""The families of data sets, one file each; `cfjobs/datasets/family.py` says what a file has to define."""
