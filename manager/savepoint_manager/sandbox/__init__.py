"""Kernels that can't reach what is not theirs: each in a sandbox of its own, made by bubblewrap.

`bubblewrap` says what is in there, `provisioner` starts kernels in it, and `supervisor` is the
process between the front end and the kernel.
"""
