"""The pool: warm kernels for every front end of a user on this machine.

    front end ─ provisioner ─┐                  ┌─ zygote of one key ─ forks ─┐
    front end ─ shim ────────┼─ socket ─ daemon ┤                             ├─ standbys, kernels
    jupyter savepoint pool ──┘                  └─ zygote of another ─ forks ─┘

`client` and `provisioner` run in the front end, `daemon` with all else here in a process of its
own, zygotes and standbys are `savepoint_kernel`'s. A kernel that was handed out needs none of them.

Kernels of other kernelspecs have rooms of their own (`adoption`, `foreign`), and a `guard`.
"""
