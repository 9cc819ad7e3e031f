"""The networks that predict stars, one file each.
A new network is one new file here that defines `NETWORK`."""
